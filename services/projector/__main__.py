"""`python -m services.projector`: this service alone in a process."""

from services.projector.main import build
from shared.process import launch

launch("projector", build)
