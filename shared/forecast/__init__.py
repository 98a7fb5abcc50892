"""How long a recovery will take: the event simulation of its plan, pure and deterministic."""
