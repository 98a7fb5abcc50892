"""Checks the files of an export, as an import would, without a database."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from shared.archive import files
from shared.archive.errors import Broken
from shared.archive.files import Segment, ServiceFiles
from shared.archive.parallel import in_order
from shared.archive.port import Archive
from shared.verify.report import Checked, Flaw, Told


async def check(archive: Archive, *, told: Told = lambda service, rows: None) -> list[Checked]:
    """What is wrong with the files that the manifest names, by service.

    Every segment, state and blob is read. Raises NotAnExport, Broken for the manifest itself.
    """
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    return [
        await _check_service(archive, service, kept, told)
        for service, kept in manifest.services.items()
    ]


async def _check_service(
    archive: Archive, service: str, kept: ServiceFiles, told: Told
) -> Checked:
    began = time.monotonic()
    checked = Checked(service=service)
    types: set[tuple[str, int]] = set()
    names = [segment.name for segment in kept.segments()]
    async with aclosing(in_order(archive.get, names)) as contents:
        for topic, partitions in kept.topics.items():
            for partition, segments in partitions.items():
                where = (service, topic, int(partition))
                previous: Segment | None = None
                for segment in segments:
                    content = await anext(contents)
                    try:
                        rows = await asyncio.to_thread(
                            files.rows_of, segment, content, where=where, previous=previous
                        )
                    except Broken as broken:
                        _add(checked, broken)
                    else:
                        checked.rows += len(rows)
                        checked.streams += sum(row.version == 1 for row in rows)
                        types |= {(row.type, row.schema_version) for row in rows}
                    previous = segment
                    told(service, checked.rows)
    await _check_state(archive, kept, checked)
    checked.types = len(types)
    checked.elapsed_s = time.monotonic() - began
    return checked


async def _check_state(archive: Archive, kept: ServiceFiles, checked: Checked) -> None:
    try:
        state = files.state_of(kept.state, await archive.get(kept.state.name))
    except Broken as broken:
        _add(checked, broken)
        return
    checked.cursors = len(state.cursors)
    names = map(files.blob_name, state.blobs)
    async with aclosing(in_order(archive.get, names)) as contents:
        for sha256 in state.blobs:
            content = await anext(contents)
            try:
                files.blob_of(sha256, content)
            except Broken as broken:
                _add(checked, broken)


def _add(checked: Checked, broken: Broken) -> None:
    checked.add(
        Flaw(code=broken.code, where=broken.name, message=broken.why, remedy=broken.remedy)
    )
