"""Reading what a response says of limits."""
