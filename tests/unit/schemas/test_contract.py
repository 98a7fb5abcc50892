"""The files others build on are what this build writes, and say of old documents what is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from msgspec import structs

from schemas import registry
from schemas.contract import asyncapi, topics, types
from schemas.envelope import Meta, Recorded, commands_topic
from services.notifier.handlers import definition as notifier
from services.recovery.handlers import DEFINITION as RECOVERY
from services.replicator.handlers import DEFINITION as REPLICATOR
from services.scheduler.handlers import DEFINITION as SCHEDULER
from shared.bus.kafka.binding import to_message
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import wanted_topics
from tests.formats import formats
from tests.unit.schemas import golden, published

LANGUAGE = published.language()
GENERATED = published.generated()
GOLDEN = sorted(golden.FOLDER.glob("*.json"))
DOCUMENT: dict[str, Any] = asyncapi.document()
BY_MAKE = "make schemas writes it"


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.stem)
def test_a_schema_is_what_its_type_gives(path: Path) -> None:
    assert path.exists(), BY_MAKE
    assert path.read_text() == types.as_text(GENERATED[path]), BY_MAKE
    Draft202012Validator.check_schema(published.stored(path))


def test_no_type_changed_in_a_way_that_breaks_its_readers() -> None:
    assert published.broken() == [], "raise the version and add an upcast"


def test_every_schema_belongs_to_a_version_that_this_build_reads() -> None:
    for path in published.FOLDER.iterdir():
        name, _, version = path.name.removesuffix(".json").rpartition(".v")
        assert registry.knows(name, int(version)), f"{path.name}: nothing here reads it"


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_a_golden_file_fits_the_schema_of_its_version(file: Path) -> None:
    schema = published.stored(published.FOLDER / file.name)
    document = msgspec.json.decode(file.read_bytes())
    errors = Draft202012Validator(schema).iter_errors(document)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_a_golden_file_without_a_needed_field_is_found() -> None:
    schema = published.stored(published.FOLDER / "recovery.vm-ready.v1.json")
    document = msgspec.json.decode((golden.FOLDER / "recovery.vm-ready.v1.json").read_bytes())
    assert Draft202012Validator(schema).is_valid(document)
    del document[sorted(schema["$defs"]["VmReady"]["required"])[0]]
    assert not Draft202012Validator(schema).is_valid(document)


# ── Topics ───────────────────────────────────────────────────────────────────────────────────


def test_every_type_has_its_topics_or_stays_inside() -> None:
    for name in LANGUAGE:
        assert len(topics.topics_of(name)) <= len(topics.SERVICES), name


def test_every_name_listed_for_a_topic_is_published() -> None:
    for listed in (topics.MESSAGES, topics.INTERNAL):
        for service, names in listed.items():
            assert {f"{service}.{name}" for name in names} <= set(LANGUAGE)


@pytest.mark.parametrize("service", [SCHEDULER, REPLICATOR, RECOVERY, notifier(())],
                         ids=lambda service: str(service.name))  # fmt: skip
def test_every_message_to_a_service_is_one_it_handles(service: Any) -> None:
    handled = {registry.name_of(handler.message) for handler in service.handlers}
    sent = {n for n in LANGUAGE if commands_topic(service.name) in topics.topics_of(n)}
    assert sent <= handled


# ── AsyncAPI ─────────────────────────────────────────────────────────────────────────────────


def test_the_asyncapi_file_is_what_the_types_give() -> None:
    assert published.ASYNCAPI.read_text() == published.asyncapi_text(), BY_MAKE


def test_the_asyncapi_document_is_one() -> None:
    document = yaml.safe_load(published.ASYNCAPI.read_text())
    errors = Draft7Validator(formats("asyncapi-3.0.0")).iter_errors(document)
    assert [f"{error.json_path}: {error.message[:200]}" for error in errors] == []


@pytest.mark.parametrize(
    "wrong", [{"channels": []}, {"operations": {"o": {"action": "publish"}}}, {"asyncapi": "2"}]
)
def test_a_document_that_is_none_is_found(wrong: dict[str, Any]) -> None:
    assert not Draft7Validator(formats("asyncapi-3.0.0")).is_valid({**DOCUMENT, **wrong})


def test_headers_are_those_of_the_messages_we_send() -> None:
    row = Recorded(
        source="recovery", epoch=1, topic="seawall.recovery.events", partition=34, seq=7,
        stream="vm-recovery:shop:1:db", version=3, type="recovery.vm-ready", schema_version=1,
        data=b"{}",
        meta=Meta(
            occurred_at=golden.MOMENT, actor="admin", correlation_id="a", causation_id="b",
            traceparent="c",
        ),
    )  # fmt: skip
    cloud_event = DOCUMENT["components"]["schemas"]["CloudEvent"]
    sent = {name: value.decode() for name, value in to_message(row).headers}
    assert set(sent) == set(cloud_event["properties"])
    assert list(Draft202012Validator(cloud_event).iter_errors(sent)) == []
    bare = structs.replace(row, stream="site:east", meta=Meta(occurred_at=golden.MOMENT))
    sparse = to_message(bare).headers
    assert {name for name, _ in sparse} == set(cloud_event["required"])


def test_partitions_are_those_of_the_topics_we_make() -> None:
    settings = KafkaSettings(servers=("127.0.0.1:9092",))
    made = {topic.name: topic.partitions for topic in wanted_topics(topics.SERVICES, settings)}
    channels = DOCUMENT["channels"].values()
    told = {c["address"]: c["bindings"]["kafka"]["partitions"] for c in channels}
    # What nobody says or reads is made all the same: a service's topics come in pairs.
    assert set(made) - set(told) == {"seawall.control", "seawall.gateway.commands"}
    assert {name: made[name] for name in told} == told


def test_every_reference_leads_somewhere() -> None:
    text = published.ASYNCAPI.read_text()
    inside = set(re.findall(r"\$ref: '?#/([\w./-]+)", text))
    assert len(inside) > 10
    for path in inside:
        found: Any = DOCUMENT
        for part in path.split("/"):
            found = found[part]
    files = set(re.findall(r"\$ref: \./([\w./-]+)", text))
    assert len(files) > 10
    assert [file for file in files if not (published.ROOT / file).exists()] == []


def test_every_type_on_a_topic_is_a_message_of_its_channel() -> None:
    for name in LANGUAGE:
        found = {t for t, channel in DOCUMENT["channels"].items() if name in channel["messages"]}
        assert found == set(topics.topics_of(name)), name
