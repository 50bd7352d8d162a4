"""Example governed tasks: one real API and one idea per file. Start them with ``./worker.sh``."""
