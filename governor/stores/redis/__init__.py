"""The limiter store in Redis."""
