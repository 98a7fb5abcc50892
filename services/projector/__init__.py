"""Projector: folds every service's events into the read models that queries answer from."""
