"""Clocks, servers and conformance suites to test against the governor, also used by the demo."""
