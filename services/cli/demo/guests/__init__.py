"""The three tiers of the demo's shop: real processes that serve what is on their disks."""
