"""Private servers for the tests: each on a free port, in a temporary folder, gone after."""
