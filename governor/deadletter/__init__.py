"""Dead letters: one SQL row for each task that will not run again by itself."""
