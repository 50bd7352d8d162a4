"""Celery's own tests, run plain and under a governor, and compared."""
