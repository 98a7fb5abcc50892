"""Benchmarks: what the product promises in numbers, measured. `harness.py` says how to add one."""
