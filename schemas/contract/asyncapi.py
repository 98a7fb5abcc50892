"""The AsyncAPI 3.0 document: topics, what travels on them, and the headers of every message.

Described from Seawall's side: it sends events and progress for anybody to read. The topics of
messages are there so that an operator knows what is on his brokers; only Seawall's services may
write to them, everybody else asks over HTTP (`openapi.yaml`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from schemas import registry
from schemas.contract.topics import MESSAGES, PROGRESS, SERVICES, topics_of
from schemas.contract.types import file_name
from schemas.envelope import DEAD_LETTER_TOPIC, commands_topic, events_topic
from schemas.ids import PARTITIONS
from schemas.views import Progress

VERSION: Final = "1"
_BINDING: Final = "0.5.0"
_FORMAT: Final = "application/schema+json;version=draft-2020-12"

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "string", "pattern": "^[0-9]+$"}
_HEADERS: Final[dict[str, Any]] = {
    "content-type": {"const": "application/json"},
    "ce_specversion": {"const": "1.0"},
    "ce_id": {**_TEXT, "description": "unique for ever; the same again is a repeat"},
    "ce_source": {**_TEXT, "pattern": "^/seawall/", "description": "the service that says it"},
    "ce_type": {**_TEXT, "pattern": r"^seawall\.", "description": "seawall. and the stored name"},
    "ce_subject": {**_TEXT, "description": "the stream: family, plan or site, and the rest"},
    "ce_time": {**_TEXT, "format": "date-time", "description": "when it happened"},
    "ce_seawallplan": {**_TEXT, "description": "the plan it is about; absent without one"},
    "ce_seawalljob": {**_TEXT, "description": "the job it is about; absent without one"},
    "ce_correlationid": {**_TEXT, "description": "the command or tick at the root of it"},
    "ce_causationid": {**_TEXT, "description": "the event or command right before it"},
    "ce_actor": {**_TEXT, "description": "who caused it"},
    "ce_traceparent": {**_TEXT, "description": "W3C trace context; absent without a trace"},
    "ce_epoch": {**_NUMBER, "description": "rises when the service's log was restored"},
    "ce_seq": {**_NUMBER, "description": "dense per source, topic, partition and epoch, from 1"},
    "ce_version": {**_NUMBER, "description": "of the stream; 0 for a message to a service"},
    "ce_schemaversion": {**_NUMBER, "description": "of the type: which JSON Schema holds"},
}
_ALWAYS: Final = (
    "content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time",
    "ce_epoch", "ce_seq", "ce_version", "ce_schemaversion", "ce_actor",
)  # fmt: skip
_PROGRESS_MESSAGE: Final = "progress"


def document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document; references to payloads are relative to `schemas/`."""
    names = [name for name in registry.names() if _is_language(name) and topics_of(name)]
    channels = dict(_channels(names))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Seawall",
            "version": VERSION,
            "description": "Every fact of the control plane as CloudEvents 1.0 on Kafka, binary "
            "content mode. At least once, in order per partition. See docs/events.md.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "the brokers that SEAWALL_KAFKA names",
                "variables": {"bootstrap": {"default": "127.0.0.1:9092"}},
            }
        },
        "channels": channels,
        "operations": {_operation_id(name): _operation(name) for name in channels},
        "components": {
            "messages": {
                **{name: _message(name) for name in names},
                _PROGRESS_MESSAGE: _progress(),
            },
            "schemas": {"CloudEvent": _headers(), **_progress_schemas()},
        },
    }


def _is_language(name: str) -> bool:
    """Tests publish types of their own; only the language is promised."""
    return registry.struct_of(name).__module__.partition(".")[0] == "schemas"


# ── Channels and operations ──────────────────────────────────────────────────────────────────


def _channels(names: list[str]) -> Iterator[tuple[str, Any]]:
    for service in SERVICES:
        topic = events_topic(service)
        text = f"What the {service} says: facts, in the order in which they were committed."
        yield topic, _channel(topic, text, [name for name in names if topic in topics_of(name)])
    for service in MESSAGES:
        topic = commands_topic(service)
        text = f"What the {service} is told and asked. Only Seawall's own services write here."
        yield topic, _channel(topic, text, [name for name in names if topic in topics_of(name)])
    text = "How far running jobs are. Lossy: no order, no repeats, nothing is kept for long."
    yield PROGRESS, _channel(PROGRESS, text, [_PROGRESS_MESSAGE])
    text = "What services set aside, for an operator: `seawall log parked` shows the same."
    dead = [name for name in names if DEAD_LETTER_TOPIC in topics_of(name)]
    yield DEAD_LETTER_TOPIC, _channel(DEAD_LETTER_TOPIC, text, dead)


def _channel(topic: str, text: str, messages: list[str]) -> dict[str, Any]:
    binding = {
        "topic": topic,
        "partitions": 1 if topic == PROGRESS else PARTITIONS,
        "bindingVersion": _BINDING,
    }
    return {
        "address": topic,
        "description": text,
        "messages": {name: _ref("messages", name) for name in messages},
        "bindings": {"kafka": binding},
    }


def _operation_id(topic: str) -> str:
    verb = "receive" if topic.endswith(".commands") else "send"
    return f"{verb}-{topic}"


def _operation(topic: str) -> dict[str, Any]:
    receives = topic.endswith(".commands")
    return {
        "action": "receive" if receives else "send",
        "channel": {"$ref": f"#/channels/{topic}"},
        "summary": "for Seawall's services only" if receives else "for anybody to read",
    }


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def _message(name: str) -> dict[str, Any]:
    struct = registry.struct_of(name)
    version = registry.written_version_of(struct)
    own = {"ce_type": {"const": f"seawall.{name}"}, "ce_schemaversion": {"const": str(version)}}
    return {
        "name": f"seawall.{name}",
        "summary": (struct.__doc__ or "").strip().splitlines()[0],
        "headers": {
            "type": "object",
            "allOf": [_ref("schemas", "CloudEvent")],
            "properties": own,
        },
        "payload": {
            "schemaFormat": _FORMAT,
            "schema": {"$ref": f"./jsonschema/{file_name(name, version)}"},
        },
        "bindings": _keyed("the plan or site; it alone decides the partition"),
    }


def _progress() -> dict[str, Any]:
    return {
        "name": "seawall.progress",
        "summary": "How far one running job is at this moment.",
        "payload": _ref("schemas", Progress.__name__),
        "bindings": _keyed("the job"),
    }


def _keyed(text: str) -> dict[str, Any]:
    return {"kafka": {"key": {**_TEXT, "description": text}, "bindingVersion": _BINDING}}


def _headers() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "CloudEvents 1.0, Kafka binary binding: every value is text",
        "required": list(_ALWAYS),
        "properties": {name: dict(schema) for name, schema in _HEADERS.items()},
    }


def _progress_schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components(
        (Progress,), ref_template="#/components/schemas/{name}"
    )
    return dict(found)


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
