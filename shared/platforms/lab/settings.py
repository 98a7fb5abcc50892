"""Reads `site.yaml` and `vm.yaml`: what a lab site simulates, and what a VM is.

Owns which fields are allowed; an error names file, line, field, what was found, what is allowed.
Does not own what the fields do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from schemas import rules
from schemas.documents import DefinitionErrors, Fields, Mismatch, Node, Report, Rule, did_you_mean
from shared.errors import Permanent
from shared.platforms.lab.vocabulary import CALLS, QUOTAS
from shared.platforms.lab.windows_settings import (
    AgentSpec,
    NodeSpec,
    read_agent,
    read_drivers,
    read_prep_nodes,
)
from shared.windows.drivers import TARGETS, DriverTarget
from shared.yamlfile import YamlDocument, YamlError, read_yaml

JournalMode = Literal["off", "on", "hashes"]

_LATENCY_S_MAX: Final = 3600.0
_BOOT_S_MAX: Final = 3600.0
_CAPTURED_BYTES_MAX: Final = 32 * 1024
_FILES_OF_THE_LAB: Final = frozenset({"vm.yaml", "state.yaml", "guest.log"})


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """A token bucket (`burst`, `per_second`), or so many at once (`concurrent`)."""

    burst: float | None = None
    per_second: float | None = None
    concurrent: int | None = None


class SiteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`site.yaml`: latencies in seconds by call, quotas, fault probabilities, space in bytes.

    `drivers` are those that a Windows needs to boot here.
    """

    latency_s: dict[str, float] = {}
    quotas: dict[str, Quota] = {}
    fault_seed: int = 0
    faults: dict[str, float] = {}
    capacity: int | None = None
    journal: JournalMode = "on"
    networks: tuple[str, ...] = ()
    prep_nodes: tuple[NodeSpec, ...] = ()
    drivers: DriverTarget = TARGETS["lab"]


class DiskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of `vm.yaml`: its name and the file in the VM's folder."""

    name: str
    file: str


class GuestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What runs in the VM: when it is up, and the process that is its service, if any."""

    boots_in_s: float = 0.0
    command: tuple[str, ...] = ()
    port: int = 8000
    agent: AgentSpec = AgentSpec()


class VmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """`vm.yaml`. `folder` is where it lies; `files` are the small texts the guest needs."""

    name: str
    os: str
    cpus: int
    memory: int
    disks: tuple[DiskSpec, ...]
    networks: tuple[str, ...]
    guest: GuestSpec
    folder: str = ""
    files: dict[str, str] = {}

    def configuration(self) -> dict[str, Any]:
        """The opaque configuration that travels with every copy, as plain JSON data."""
        # Through JSON, so that lists are lists before and after it was stored anywhere.
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain

    @classmethod
    def from_configuration(cls, configuration: dict[str, Any], *, name: str) -> VmSpec:
        """Back from what was stored with a copy, with defaults for what it does not say;
        Permanent where it is not ours."""
        defaults = {"name": name, "os": "linux", "cpus": 1, "memory": 1 << 30}
        empty: dict[str, Any] = {"disks": (), "networks": (), "guest": {}}
        try:
            return msgspec.convert({**defaults, **empty, **configuration}, cls)
        except msgspec.ValidationError as error:
            raise Permanent(
                f"the VM configuration kept with the copy cannot be read: {error}",
                code="bad-configuration",
                remedy="replicate the VM again, so that its configuration is stored anew",
            ) from error


def read_site(path: Path) -> SiteSettings:
    """The settings of a site; all defaults where there is no file. Permanent for a bad one."""
    if not os.path.exists(path):
        return SiteSettings()
    document = _read(path)
    report = Report()
    fields = _root(document, report).fields("a mapping of site settings")
    seed, faults = _faults(fields)
    site = SiteSettings(
        latency_s=_by_call(fields, "latency", rules.duration(max_s=_LATENCY_S_MAX)),
        quotas=_quotas(fields),
        fault_seed=seed,
        faults=faults,
        capacity=fields.take("capacity", rules.size(minimum=1), default=None),
        journal=fields.take("journal", _journal_mode, default="on"),
        networks=_names(fields, "networks"),
        prep_nodes=read_prep_nodes(fields),
        drivers=read_drivers(fields),
    )
    fields.close()
    _raise(document, report)
    return site


def read_vm(folder: Path) -> VmSpec:
    """The VM of a folder; Permanent for a missing or bad `vm.yaml`."""
    document = _read(folder / "vm.yaml")
    report = Report()
    fields = _root(document, report).fields("a mapping with name and disks")
    name = fields.need("name", rules.name(), fallback="")
    if name and name != folder.name and (node := fields.node("name")) is not None:
        node.problem(found=f'"{name}"', allowed=f'"{folder.name}", the name of the folder')
    spec = VmSpec(
        name=name,
        os=fields.take("os", rules.one_of(("linux", "windows")), default="linux"),
        cpus=fields.take("cpus", rules.whole(minimum=1, maximum=1024), default=1),
        memory=fields.take("memory", rules.size(minimum=1 << 20), default=1 << 30),
        disks=_disks(fields),
        networks=_names(fields, "networks"),
        guest=_guest(fields),
        folder=str(folder),
    )
    fields.close()
    _raise(document, report)
    return msgspec.structs.replace(spec, files=_captured(folder, spec))


def _read(path: Path) -> YamlDocument:
    try:
        return read_yaml(path)
    except YamlError as error:
        raise Permanent(str(error), code="bad-file", remedy=f"mend {path}") from error


def _root(document: YamlDocument, report: Report) -> Node:
    value = {} if document.value is None else document.value
    return Node(path=(), value=value, report=report)


def _raise(document: YamlDocument, report: Report) -> None:
    try:
        report.raise_if_any()
    except DefinitionErrors as errors:
        text = "; ".join(document.render_all(errors))
        raise Permanent(text, code="bad-file", remedy=f"mend {document.file}") from errors


def _by_call(fields: Fields, key: str, rule: Rule[float]) -> dict[str, float]:
    found = fields.fields(key, "a mapping of call names")
    values: dict[str, float] = {}
    for name, node in found.entries() if found is not None else ():
        if name not in CALLS:
            help_text = did_you_mean(name, tuple(CALLS))
            node.problem(
                found=f'"{name}"', allowed="the call names of docs/lab.md", message=help_text
            )
            continue
        values[name] = node.read(rule, fallback=0.0)
    return values


def _faults(fields: Fields) -> tuple[int, dict[str, float]]:
    node = fields.node("faults")
    if node is None or not isinstance(node.value, dict):
        return 0, _by_call(fields, "faults", rules.number(minimum=0, maximum=1))
    seed_node = Node(path=(*node.path, "seed"), value=node.value.get("seed"), report=node.report)
    seed = 0
    if seed_node.value is not None:
        seed = seed_node.read(rules.whole(minimum=0, maximum=2**63), fallback=0)
    rest = {key: value for key, value in node.value.items() if key != "seed"}
    parent = Fields(Node(path=fields.path, value=None, report=fields.report), {"faults": rest})
    return seed, _by_call(parent, "faults", rules.number(minimum=0, maximum=1))


def _quotas(fields: Fields) -> dict[str, Quota]:
    found = fields.fields("quotas", "a mapping of quota names")
    quotas: dict[str, Quota] = {}
    for name, node in found.entries() if found is not None else ():
        if name not in QUOTAS:
            help_text = did_you_mean(name, QUOTAS)
            node.problem(found=f'"{name}"', allowed=", ".join(QUOTAS), message=help_text)
            continue
        inner = node.fields("{burst, per_second} or {concurrent}")
        quotas[name] = _quota(inner)
        inner.close()
    return quotas


def _quota(fields: Fields) -> Quota:
    concurrent = fields.take("concurrent", rules.whole(minimum=1, maximum=1_000_000), default=None)
    rate = rules.number(minimum=0.001, maximum=1e9)
    if concurrent is not None:
        fields.refuse("burst", allowed="nothing beside concurrent")
        fields.refuse("per_second", allowed="nothing beside concurrent")
        return Quota(concurrent=concurrent)
    return Quota(
        burst=fields.need("burst", rules.number(minimum=1, maximum=1e9), fallback=1.0),
        per_second=fields.need("per_second", rate, fallback=1.0),
    )


def _journal_mode(value: object) -> JournalMode:
    if value is True:
        return "on"
    if value is False:
        return "off"
    if value == "hashes":
        return "hashes"
    raise Mismatch("true, false or hashes")


def _names(fields: Fields, key: str) -> tuple[str, ...]:
    return tuple(node.read(rules.name(), fallback="") for node in fields.items(key))


def _disks(fields: Fields) -> tuple[DiskSpec, ...]:
    disks: list[DiskSpec] = []
    nodes = fields.items("disks", "a list of {name, file}")
    if fields.node("disks") is None:
        fields.missing("disks", allowed="a list of {name, file}")
    for node in nodes:
        inner = node.fields("{name, file}")
        disk = DiskSpec(
            name=inner.need("name", rules.name(), fallback=""),
            file=inner.need("file", _file_name, fallback=""),
        )
        inner.close()
        for other in disks:
            if disk.name and disk.name == other.name:
                node.problem(found=f'a second disk "{disk.name}"', allowed="each name once")
            elif disk.file and disk.file == other.file:
                node.problem(found=f'a second use of "{disk.file}"', allowed="each file once")
        disks.append(disk)
    return tuple(disks)


def _file_name(value: object) -> str:
    allowed = "the name of a file in the VM's folder, not vm.yaml, state.yaml or a hidden one"
    name = rules.name(allowed=allowed)(value)
    if name in _FILES_OF_THE_LAB:
        raise Mismatch(allowed)
    return name


def _guest(fields: Fields) -> GuestSpec:
    found = fields.fields("guest", "{boots_in, command, port, agent}")
    if found is None:
        return GuestSpec()
    command = tuple(
        node.read(rules.text(), fallback="") for node in found.items("command", "a list of words")
    )
    guest = GuestSpec(
        boots_in_s=found.take("boots_in", rules.duration(max_s=_BOOT_S_MAX), default=0.0),
        command=command,
        port=found.take("port", rules.whole(minimum=1, maximum=65535), default=8000),
        agent=read_agent(found),
    )
    found.close()
    return guest


def _captured(folder: Path, spec: VmSpec) -> dict[str, str]:
    """The small texts beside the disks, so that a recovered guest needs nothing at the source.

    All of them while they are at most 32 KiB together (the configuration travels in events),
    else those that the command names, else none: the guest then runs the original file.
    """
    if not spec.guest.command:
        return {}
    skip = _FILES_OF_THE_LAB | {disk.file for disk in spec.disks}
    texts: dict[str, str] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in skip or entry.name.startswith(".") or not entry.is_file():
            continue
        if entry.stat().st_size > _CAPTURED_BYTES_MAX:
            continue
        try:
            texts[entry.name] = Path(entry.path).read_text("utf-8")
        except UnicodeDecodeError:
            continue
    for chosen in (texts, {n: t for n, t in texts.items() if n in spec.guest.command}):
        if sum(len(text.encode()) for text in chosen.values()) <= _CAPTURED_BYTES_MAX:
            return chosen
    return {}
