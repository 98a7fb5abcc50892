"""Structs of platforms are read on threads side by side, from the first document on."""

from __future__ import annotations

import subprocess
import sys

RACE = """
import sys, threading, msgspec

def fresh(number):
    inner = msgspec.defstruct("Inner", [(f"i{n}", str) for n in range(8)],
                              module="shared.platforms.fresh")
    return msgspec.defstruct("Outer", [(f"o{n}", inner) for n in range(8)],
                             module="shared.platforms.fresh")

shapes = [fresh(number) for number in range(100)]
import shared.platforms.lab.manifest

document = {f"o{n}": {f"i{m}": "" for m in range(8)} for n in range(8)}
sys.setswitchinterval(1e-6)

def read(shape, together):
    together.wait()
    for _ in range(3):
        msgspec.convert(document, shape)

for shape in shapes:
    together = threading.Barrier(6)
    threads = [threading.Thread(target=read, args=(shape, together)) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_threads_may_read_the_first_document_of_a_struct_together() -> None:
    """Without the preparation that importing the platform does, this dies by SIGSEGV."""
    done = subprocess.run(
        [sys.executable, "-c", RACE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-400:])
