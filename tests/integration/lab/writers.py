"""A guest that writes to both disks of its VM as one moment, until it is killed.

    python -m tests.integration.lab.writers VM_FOLDER SEED

Every write puts the same counter into the first 8 bytes of both disks and random bytes elsewhere.
Prints one line when it begins.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from shared.platforms.lab.writer import LabWriter

FILES = ("sda.raw", "sdb.raw")


def main() -> None:
    folder, chance = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    writer = LabWriter(folder)
    size = os.stat(folder / FILES[0]).st_size
    print("writing", flush=True)
    while True:
        counter = chance.randbytes(8)
        writes = [(file, 0, counter) for file in FILES]
        for file in FILES:
            length = chance.randrange(1, 20_000)
            offset = chance.randrange(8, size - length)
            writes.append((file, offset, chance.randbytes(length)))
        writer.write_many(writes)
        if chance.random() < 0.1:
            writer.discard("sdb.raw", chance.randrange(8, size // 2), 30_000)


if __name__ == "__main__":
    main()
