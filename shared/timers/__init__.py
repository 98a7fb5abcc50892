"""Durable timers: what is due is decided in batches, by the copy that holds the partition."""
