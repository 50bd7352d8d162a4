"""What a response says of limits."""
