"""The stream of log lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys

SAYING = """
import structlog
from shared.telemetry.logs import configure_logs
configure_logs("info")
structlog.get_logger().info("said", text="x" * 3000)
"""
PIPE_BYTES = 64 * 1024


def test_a_line_is_one_write() -> None:
    # In packet mode a read gives what one write wrote.
    reader, writer = os.pipe2(os.O_DIRECT)
    subprocess.run([sys.executable, "-c", SAYING], stderr=writer, check=True)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as stream:
        line = stream.read(PIPE_BYTES)
        assert stream.read(PIPE_BYTES) == b""
    assert line.endswith(b"\n") and json.loads(line)["event"] == "said"
