"""Limiter stores: in memory (the specification at work) and Redis."""
