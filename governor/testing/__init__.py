"""What users and store authors need to test against the governor."""
