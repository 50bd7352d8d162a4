"""The interface to Celery: task base class, signals, consumer bootstep."""
