"""`python -m services.gateway`: this service alone in a process."""

from services.gateway.main import build
from shared.process import launch

launch("gateway", build)
