"""`python -m services.replicator`: this service alone in a process."""

from services.replicator.main import build
from shared.process import launch

launch("replicator", build)
