"""`python -m tests.bench [NAME]`: one benchmark or all; each one's last line is its result.

Progress goes to standard error. Exit code 0 if every goal holds, 1 if one does not, 2 for a name
that is no benchmark. `make bench NAME=copy` calls this.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from tests.bench.harness import Benchmark, Goal, measure, say

_PACKAGE = "tests.bench"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("positional", nargs="?", metavar="NAME")
    parser.add_argument("--name", metavar="NAME", help="the same as NAME")
    given = parser.parse_args()
    name = given.name or given.positional
    benchmarks = _benchmarks()
    if name is not None and name not in benchmarks:
        say(f'"{name}" is no benchmark; there are {", ".join(sorted(benchmarks))}')
        return 2
    results = []
    for chosen in [name] if name is not None else sorted(benchmarks):
        results.append(uvloop.run(measure(benchmarks[chosen])))
        sys.stdout.write(msgspec.json.encode(results[-1]).decode() + "\n")
        sys.stdout.flush()
    return 0 if all(result["holds"] for result in results) else 1


def _benchmarks() -> dict[str, Benchmark]:
    """The modules of this package that have the shape of a benchmark, by name."""
    found = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name in ("harness", "__main__"):
            continue
        loaded = importlib.import_module(f"{_PACKAGE}.{module.name}")
        if isinstance(getattr(loaded, "GOAL", None), Goal):
            found[loaded.NAME] = cast(Benchmark, loaded)
    return found


if __name__ == "__main__":
    sys.exit(main())
