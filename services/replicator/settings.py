"""What can be set about the replicator, beside what every process has (`shared.settings`)."""

from __future__ import annotations

import msgspec

from services.replicator.transfer import TransferSettings


class ReplicatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`node_disks`: disks that a recovery site's node copies at once. Times are seconds.

    `landing_s`: how long a cancelled call that makes something is still waited for. `room_s_max`:
    how long a disk waits for the target to allow one more staged generation.
    """

    node_disks: int = 40
    call_timeout_s: float = 60.0
    inspect_timeout_s: float = 60.0
    finalize_timeout_s: float = 600.0
    landing_s: float = 4.0
    room_s_max: float = 300.0
    transfer: TransferSettings = TransferSettings()
