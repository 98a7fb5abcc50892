"""The append-only log of a service, and everything that commits together with it."""
