"""The command line, its Python client, and the whole control plane in one process."""
