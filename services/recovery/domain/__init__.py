"""The pure decisions of the recovery service."""
