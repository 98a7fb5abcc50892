"""Checks the logs of an installation against what every reader of them relies on."""
