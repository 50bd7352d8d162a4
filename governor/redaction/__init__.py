"""Secrets leave texts and arguments before they are stored or shown."""
