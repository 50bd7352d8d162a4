"""What a waiting or dying task's message turns into."""
