"""`python -m services.notifier`: this service alone in a process."""

from services.notifier.main import build
from shared.process import launch

launch("notifier", build)
