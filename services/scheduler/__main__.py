"""`python -m services.scheduler`: this service alone in a process."""

from services.scheduler.main import build
from shared.process import launch

launch("scheduler", build)
