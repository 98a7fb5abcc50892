"""What `docs/events.md` and its examples tell integrators is what the published contract says."""

from __future__ import annotations

import ast
import re
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from schemas.contract import asyncapi, types
from schemas.ids import partition_of
from tests.tidy import tree
from tests.unit.schemas import published

PAGE = tree.text("docs/events.md")
LANGUAGE = published.language()
DOCUMENT: dict[str, Any] = asyncapi.document()
HEADERS = DOCUMENT["components"]["schemas"]["CloudEvent"]
EXAMPLES = ("docs/examples/follow_events.py", "docs/examples/rpo_stats.py")


def section(title: str) -> str:
    """A section of the page, to the next of its level."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def first_cells(text: str) -> set[str]:
    """The words in backticks in the first column of a table."""
    cells = re.findall(r"^\| (`[^|]+) \|", text, flags=re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def example() -> tuple[dict[str, str], Any]:
    """Headers and value of the page's message."""
    headers, value = re.findall(r"```\w*\n(.*?)```", section("A message"), flags=re.DOTALL)
    pairs = (line.partition(": ") for line in headers.splitlines())
    return {name: text for name, _, text in pairs}, msgspec.json.decode(value)


def test_the_page_lists_every_topic() -> None:
    told = first_cells(section("Topics")) - {"seawall.control"}
    services = ("scheduler", "replicator", "recovery", "notifier")
    commands = {f"seawall.{service}.commands" for service in services}
    assert (told - {"seawall.<service>.commands"}) | commands == set(DOCUMENT["channels"])


def test_the_page_lists_every_header() -> None:
    assert first_cells(section("Headers")) == set(HEADERS["properties"])


def test_the_message_is_one_as_the_contract_has_it() -> None:
    headers, value = example()
    assert list(Draft202012Validator(HEADERS).iter_errors(headers)) == []
    name = headers["ce_type"].removeprefix("seawall.")
    schema = types.json_schema(name)
    assert list(Draft202012Validator(schema).iter_errors(value)) == []
    source, epoch, rest = headers["ce_id"].split(".", 2)
    topic, partition, seq = rest.rsplit(".", 2)
    assert (f"/seawall/{source}", epoch, seq) == (
        headers["ce_source"], headers["ce_epoch"], headers["ce_seq"],
    )  # fmt: skip
    assert name in DOCUMENT["channels"][topic]["messages"]
    assert int(partition) == partition_of(headers["ce_seawallplan"])


def test_every_type_it_names_is_published() -> None:
    found = re.findall(r"`seawall\.([a-z]+\.[a-z-]+)`", PAGE)
    named = set(found) - {topic.removeprefix("seawall.") for topic in DOCUMENT["channels"]}
    assert len(named) > 5
    assert named <= set(LANGUAGE)


def test_every_file_it_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGE)
    assert links and [link for link in links if not (tree.ROOT / "docs" / link).exists()] == []


@pytest.mark.parametrize("file", EXAMPLES)
def test_an_example_reads_headers_and_types_that_there_are(file: str) -> None:
    module = ast.parse(tree.text(file))
    assert ast.get_docstring(module)
    texts = [node.value for node in ast.walk(module) if isinstance(node, ast.Constant)]
    words = [text.decode() if isinstance(text, bytes) else text for text in texts]
    whole = [word for word in words if isinstance(word, str) and " " not in word]
    read = {word for word in whole if word.startswith("ce_")}
    assert read and read <= set(HEADERS["properties"])
    types_named = {word.removeprefix("seawall.") for word in whole if word.count(".") == 2}
    topics = {topic.removeprefix("seawall.") for topic in DOCUMENT["channels"]}
    assert {name for name in types_named if name[0] != "{"} <= set(LANGUAGE) | topics
