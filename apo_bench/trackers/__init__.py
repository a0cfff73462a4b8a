"""Trackers: further readers of the store."""
