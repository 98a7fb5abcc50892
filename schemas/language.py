"""The whole published language at once, for whoever must read what any service ever said."""

from __future__ import annotations

import importlib
import pkgutil

import schemas


def import_all() -> None:
    """Import every module of the language, so that the registry knows every type."""
    for module in pkgutil.walk_packages(schemas.__path__, "schemas."):
        importlib.import_module(module.name)
