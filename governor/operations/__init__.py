"""What people look at and change: the command line only shows it."""
