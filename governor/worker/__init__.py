"""The interface to Celery: task base class, consumer bootstep, and what decides between."""
