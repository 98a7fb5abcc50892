"""The replicator's pure deciders."""
