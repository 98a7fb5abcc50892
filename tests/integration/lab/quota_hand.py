"""Asks for snapshots at a site until a moment has passed; prints how many were granted.

python -m tests.integration.lab.quota_hand SITE SECONDS
"""

from __future__ import annotations

import asyncio
import sys
import time

from shared.errors import Throttled
from shared.platforms.lab.manifest import open_platform


async def main() -> None:
    platform = open_platform({"path": sys.argv[1]})
    granted, refused = 0, 0
    deadline = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < deadline:
        try:
            await platform.source.list_snapshots()
            granted += 1
        except Throttled:
            refused += 1
    await platform.close()
    print(granted, refused, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
