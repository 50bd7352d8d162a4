"""Logs and metrics; nothing here decides."""
