"""The publishing side: a message is stamped, or refused."""
