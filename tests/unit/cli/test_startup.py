"""What only some commands need is loaded by those alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SDK = {"aioboto3", "aiobotocore", "boto3", "botocore"}


def loaded_by(statement: str) -> set[str]:
    """The packages that a new process has loaded after a statement."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "statement",
    [
        "import services.cli.__main__",
        "import services.cli.up",
        "import services.gateway.main",
        "import shared.archive.export, shared.archive.restore, shared.archive.check",
        "import shared.archive.places as p; p.s3_address('s3://bucket/prefix')",
    ],
)
def test_the_sdk_of_an_object_store_is_not_loaded_before_one_is_named(statement: str) -> None:
    assert loaded_by(statement) & SDK == set()


def test_it_is_seen_where_it_is_loaded() -> None:
    assert loaded_by("import shared.archive.s3") & SDK == SDK
