"""Replicator: makes copies of VMs and keeps them fresh."""
