"""Pure decisions. No clock, no I/O, no randomness that is not passed in."""
