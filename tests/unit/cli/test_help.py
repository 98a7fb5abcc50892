"""Every command says what it is and takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from services.cli.__main__ import app

GROUP = typer.main.get_group(app)


def commands(group: TyperGroup, *words: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*words, name)
        if isinstance(command, TyperGroup):
            yield from commands(command, *words, name)


@pytest.mark.parametrize("words", [(), *commands(GROUP)], ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert "Usage" in shown.output


def test_places_are_shown_as_they_are_typed() -> None:
    for words in (["export"], ["import"], ["verify"]):
        shown = CliRunner().invoke(app, ["log", *words, "--help"], env={"COLUMNS": "200"})
        assert "s3://BUCKET[/PREFIX]" in shown.output
