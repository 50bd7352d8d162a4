"""The governor: distributed limits, computed deferrals and dead letters for Celery."""

__version__ = "0.1.0"
