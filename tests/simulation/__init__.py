"""Whole random worlds in virtual time: one seed, one history."""
