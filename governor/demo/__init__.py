"""The main job on real parts, for a newcomer to watch."""
