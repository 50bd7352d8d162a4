"""The status that people look at and the changes they make; the command line only shows them."""
