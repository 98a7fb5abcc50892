"""Random sites, VMs, scripts and plans, from a seed."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from schemas.plans import (
    RECOVERY_OPERATIONS,
    REPLICATION_OPERATIONS,
    CheckpointPolicy,
    PlanDefinition,
    ReadyProbe,
    RecoveryPolicy,
    ReplicationPolicy,
    ReplicationScripts,
    ScriptDefinition,
    Targets,
    VmDefinition,
)
from schemas.recovery import StoreRecoveryScript
from schemas.replicator import StoreScript
from shared.platforms.lab.settings import Quota, SiteSettings
from shared.platforms.lab.vocabulary import CALLS
from shared.platforms.lab.windows_settings import NodeSpec
from shared.platforms.memory import MemoryVm
from shared.platforms.memory.prep import WINDOWS
from shared.process import QUICK_RETURN_KINDS
from shared.testing.scripts import Play
from shared.testing.world import Knobs
from tests.simulation.plane import CHUNK_BYTES, SECRETS, Shape

EPOCH_TICK: Final = dt.datetime(2026, 1, 1, 0, 0, 17, tzinfo=dt.UTC)
SLOW_CALLS: Final = ("rebuild_disk", "create_instance", "power_on", "open_snapshot", "finalize")
SLOW_PREP_CALLS: Final = ("power_on_node", "power_off_node", "prepare_windows")
FAULTY_CALLS: Final = tuple(sorted(CALLS))
RATES: Final = (
    "RunInstances",
    "StartInstances",
    "CreateVolume",
    "CreateSnapshots",
    "DeleteSnapshot",
    "StartSnapshot",
    "DescribeInstances",
    "DescribeTags",
    "TerminateInstances",
    "PutBlock",
)
DISKS_MAX: Final = 3
UNPREPARED: Final = WINDOWS + b"3"
PREPARED: Final = WINDOWS + b"0"
"""How the disk of a Windows begins before and after it was prepared."""

TICKS_S: Final = (60.0, 120.0, 300.0)
HOURS_TICKS_S: Final = (600.0, 900.0, 3600.0)
ACTS: Final = {
    "recover": 5,
    "clean": 4,
    "run": 1,
    "checkpoint": 1,
    "change-checkpoint": 1,
    "cancel": 2,
    "stop": 1,
    "apply": 1,
    "reset": 1,
    "prioritise": 1,
    "nonsense": 1,
}


class Temper(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of a world it is. `calm`: nothing happens to its processes and wires."""

    vms_max: int = 12
    faults: bool = True
    quotas: bool = True
    scripts: bool = True
    failing_guests: bool = True
    hours: bool = False
    calm: bool = False
    acts: dict[str, int]


def random_temper(chance: random.Random, *, acts: dict[str, int]) -> Temper:
    """One of the tempers; `acts` are the weights of what people do."""
    return Temper(
        vms_max=chance.choice((1, 3, 6, 12)),
        faults=chance.random() < 0.5,
        quotas=chance.random() < 0.5,
        scripts=chance.random() < 0.8,
        failing_guests=chance.random() < 0.5,
        hours=chance.random() < 0.15,
        acts=acts,
    )


def random_shape(chance: random.Random, temper: Temper) -> Shape:
    """Sites, copies and settings of processes."""
    lease_s = 60.0 if temper.hours else chance.choice((6.0, 15.0, 30.0))
    knobs = Knobs(
        lease_s=lease_s,
        heartbeat_s=lease_s / 3,
        poll_s=20.0 if temper.hours else chance.choice((2.0, 5.0, 10.0)),
        quick_return_kinds=QUICK_RETURN_KINDS,
    )
    return Shape(
        knobs=knobs,
        copies=chance.choice((1, 2, 2)),
        copies_of_others=chance.choice((1, 1, 2)),
        node_disks=chance.choice((2, 5, 40)),
        mail_fails=chance.choice((0.0, 0.3)),
        east=_site(chance, temper),
        west=_site(chance, temper),
    )


def _site(chance: random.Random, temper: Temper) -> SiteSettings:
    quotas: dict[str, Quota] = {}
    if temper.quotas:
        for name in RATES:
            if chance.random() < 0.4:
                burst = chance.choice((1.0, 3.0, 10.0))
                quotas[name] = Quota(burst=burst, per_second=chance.choice((0.5, 2.0, 10.0)))
        if chance.random() < 0.5:
            quotas["snapshot-writes"] = Quota(concurrent=chance.randint(DISKS_MAX, 8))
    faults = {}
    if temper.faults:
        for name in FAULTY_CALLS:
            if chance.random() < 0.3:
                faults[name] = chance.choice((0.02, 0.1))
    slowness = chance.choice((0.0, 0.5, 3.0))
    latency_s = {name: chance.uniform(0, slowness) for name in SLOW_CALLS}
    seed = chance.randrange(1 << 30)
    # Of a number that is drawn anyway: what follows in a world does not depend on its nodes.
    nodes = tuple(NodeSpec(name=f"prep{n}", seats=1 + seed % 3) for n in range(1 + seed % 2))
    return SiteSettings(
        latency_s={**latency_s, **dict.fromkeys(SLOW_PREP_CALLS, slowness)},
        quotas=quotas,
        faults=faults,
        fault_seed=seed,
        prep_nodes=nodes,
    )


class Scripts:
    """Scripts that were written; each content is stored with both services once per plan."""

    def __init__(self, chance: random.Random, *, wanted: bool) -> None:
        self._chance = chance
        self._wanted = wanted
        self._count = 0
        self.contents: dict[str, bytes] = {}

    def maybe(self, operations: tuple[Any, ...], *, share: float = 0.3, **fields: Any) -> Any:
        """A new script, or None."""
        chance = self._chance
        if not self._wanted or chance.random() > share:
            return None
        self._count += 1
        play = Play(
            name=f"s{self._count}",
            lasts_s=chance.choice((0.1, 2.0, 15.0, 40.0)),
            fails=chance.choice((0.0, 0.0, 0.0, 0.3, 1.0)),
            not_prepared=chance.choice((0.0, 0.1)),
            outputs={"n": self._count} if chance.random() < 0.5 else {},
        )
        content = play.content()
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content
        return ScriptDefinition(
            run=f"{play.name}.sh",
            runtime="sh",
            sha256=sha256,
            size=len(content),
            operations=operations,
            timeout_s=chance.choice((20.0, 300.0)),
            on_failure=chance.choice((None, "continue", "stop")),
            on_unknown=chance.choice(("fail", "prompt", "rerun")),
            retries=chance.choice((0, 0, 1)),
            **fields,
        )

    def parts(self, plan: str) -> list[tuple[str, msgspec.Struct]]:
        """The messages that store all of them."""
        messages: list[tuple[str, msgspec.Struct]] = []
        for sha256, content in self.contents.items():
            fields: dict[str, Any] = {
                "plan": plan,
                "sha256": sha256,
                "part": 0,
                "parts": 1,
                "content": base64.b64encode(content).decode(),
            }
            messages.append(("replicator", StoreScript(**fields)))
            messages.append(("recovery", StoreRecoveryScript(**fields)))
        return messages


def random_vm(chance: random.Random, name: str) -> MemoryVm:
    """A source VM with one to three small disks, part of them holes; each third is a Windows."""
    disks = {}
    for number in range(chance.randint(1, DISKS_MAX)):
        size = chance.choice((1, 3, 8, 30)) * CHUNK_BYTES + chance.choice((0, 0, 512))
        content = bytearray(size)
        for offset in range(0, size, CHUNK_BYTES):
            if chance.random() < 0.6:
                piece = chance.randbytes(min(CHUNK_BYTES, size - offset))
                content[offset : offset + len(piece)] = piece
        disks[f"sd{'abc'[number]}"] = bytes(content)
    os = "linux"
    if sum(disks["sda"]) % 3 == 1:
        os = "windows"
        disks["sda"] = UNPREPARED + disks["sda"][len(UNPREPARED) :]
    return MemoryVm(name, disks, boots_in_s=chance.choice((0.0, 3.0, 20.0, 45.0)), os=os)


def random_plan(
    chance: random.Random, name: str, *, vms: Sequence[str], scripts: Scripts, temper: Temper
) -> PlanDefinition:
    """A valid plan of these VMs."""
    members = tuple(_member(chance, vm, scripts, temper) for vm in vms)
    return PlanDefinition(
        name=name,
        protected_site="east",
        recovery_site="west",
        replication=ReplicationPolicy(
            interval_s=chance.choice(HOURS_TICKS_S if temper.hours else TICKS_S),
            start_at=EPOCH_TICK,
            synchronize=chance.random() < 0.3,
            # Worlds are to meet limits that are too tight, not to be refused for them.
            over_capacity=True,
            priority=chance.randint(1, 5),
            pre_script=scripts.maybe(REPLICATION_OPERATIONS, share=0.1),
            post_script=scripts.maybe(REPLICATION_OPERATIONS, share=0.1),
        ),
        checkpoints=chance.choice(
            (
                None,
                CheckpointPolicy(
                    every_s=2400.0 if temper.hours else 240.0, keep_last=chance.randint(1, 3)
                ),
            )
        ),
        targets=Targets(rpo_s=chance.choice((None, 400.0)), rto_s=chance.choice((None, 120.0))),
        recovery=RecoveryPolicy(
            on_error=chance.choice(("continue", "continue", "stop")),
            pre_script=scripts.maybe(RECOVERY_OPERATIONS),
            post_script=scripts.maybe(RECOVERY_OPERATIONS, always=chance.random() < 0.5),
            build_ahead=chance.random() < 0.7,
            auto_cleanup_after_s=chance.choice((None, None, 60.0)),
        ),
        vms=members,
    )


def _member(chance: random.Random, vm: str, scripts: Scripts, temper: Temper) -> VmDefinition:
    within_s = chance.choice((10.0, 60.0)) if temper.failing_guests else 600.0
    replication = ReplicationScripts(
        pre_script=scripts.maybe(REPLICATION_OPERATIONS, share=0.1),
        post_script=scripts.maybe(REPLICATION_OPERATIONS, share=0.1),
    )
    return VmDefinition(
        name=vm,
        boot_order=chance.randint(1, 3),
        boot_delay_s=chance.choice((0.0, 0.0, 5.0, 30.0)),
        priority=chance.choice((None, None, 1, 5)),
        ready=ReadyProbe(within_s=within_s),
        credentials={"db": f"env:{next(iter(SECRETS))}"} if chance.random() < 0.3 else {},
        pre_script=scripts.maybe(RECOVERY_OPERATIONS, share=0.35),
        post_script=scripts.maybe(RECOVERY_OPERATIONS, share=0.35),
        replication=replication,
    )
