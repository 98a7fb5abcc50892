"""Logs and what belongs to them as files: backup to a folder, and restoring from it."""
