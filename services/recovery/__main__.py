"""`python -m services.recovery`: this service alone in a process."""

from services.recovery.main import build
from shared.process import launch

launch("recovery", build)
