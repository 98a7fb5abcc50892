"""Checks the files of an export, as an import would, without a database."""

from __future__ import annotations

import time

from shared.archive import files
from shared.archive.errors import Broken
from shared.archive.files import Segment, ServiceFiles
from shared.archive.port import Archive
from shared.verify.report import Checked, Flaw, Told


def check(archive: Archive, *, told: Told = lambda service, rows: None) -> list[Checked]:
    """What is wrong with the files that the manifest names, by service; blocks.

    Every segment, state and blob is read. Raises NotAnExport, Broken for the manifest itself.
    """
    manifest = files.read_manifest(archive.get(files.MANIFEST))
    return [
        _check_service(archive, service, kept, told) for service, kept in manifest.services.items()
    ]


def _check_service(archive: Archive, service: str, kept: ServiceFiles, told: Told) -> Checked:
    began = time.monotonic()
    checked = Checked(service=service)
    types: set[tuple[str, int]] = set()
    for topic, partitions in kept.topics.items():
        for partition, segments in partitions.items():
            previous: Segment | None = None
            for segment in segments:
                where = (service, topic, int(partition))
                try:
                    content = archive.get(segment.name)
                    rows = files.rows_of(segment, content, where=where, previous=previous)
                except Broken as broken:
                    _add(checked, broken)
                else:
                    checked.rows += len(rows)
                    checked.streams += sum(row.version == 1 for row in rows)
                    types |= {(row.type, row.schema_version) for row in rows}
                previous = segment
                told(service, checked.rows)
    _check_state(archive, kept, checked)
    checked.types = len(types)
    checked.elapsed_s = time.monotonic() - began
    return checked


def _check_state(archive: Archive, kept: ServiceFiles, checked: Checked) -> None:
    try:
        state = files.state_of(kept.state, archive.get(kept.state.name))
    except Broken as broken:
        _add(checked, broken)
        return
    checked.cursors = len(state.cursors)
    for sha256 in state.blobs:
        try:
            files.blob_of(sha256, archive.get(files.blob_name(sha256)))
        except Broken as broken:
            _add(checked, broken)


def _add(checked: Checked, broken: Broken) -> None:
    checked.add(
        Flaw(code=broken.code, where=broken.name, message=broken.why, remedy=broken.remedy)
    )
