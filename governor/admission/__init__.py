"""One call's way to its admission."""
