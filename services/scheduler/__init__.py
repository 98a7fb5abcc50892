"""Decides what is valid, what is due when, and who may touch a VM."""
