"""The published language as documents for others: JSON Schemas, topics, AsyncAPI.

Pure: text is made here, files are written by `make schemas` (`tests/unit/schemas/published.py`).
"""
