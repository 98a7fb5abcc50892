"""The guest agent of platforms that would ask their Windows over WinRM: not there, and says so.

An adapter for real guests uses it and declares `guest_agent=False`; dry runs warn of it.
"""

from __future__ import annotations

from shared.errors import Permanent
from shared.platforms.ports import Call, GuestHealth


class WinRm:
    """`GuestAgent` that cannot ask anybody."""

    async def validate(self, call: Call, *, instance_id: str) -> GuestHealth:
        raise Permanent(
            f"the Windows in {instance_id} cannot be asked over WinRM in this version",
            code="no-guest-agent",
            remedy="look at the VM by hand; `windows: {validate: false}` in the plan leaves this "
            "step out",
        )
