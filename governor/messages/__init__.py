"""A message, and what the governor writes on it."""
