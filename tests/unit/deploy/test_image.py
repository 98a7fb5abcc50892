"""The image holds what the services need and no more, and runs as nobody in particular."""

from __future__ import annotations

import re

from tests.tidy import tree

TEXT = re.sub(r"\\\n\s*", "", tree.text("deploy/Dockerfile"))
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
BUILD, FINAL = (part.splitlines() for part in TEXT.split("\nFROM ")[1:])


def starting(word: str, lines: list[str] = LINES) -> list[str]:
    return [line.removeprefix(word).strip() for line in lines if line.startswith(word + " ")]


def test_it_is_built_in_two_stages_from_a_slim_image() -> None:
    assert (BUILD[0], FINAL[0]) == ("python:3.11-slim AS build", "python:3.11-slim")
    assert [line for line in starting("COPY", FINAL) if not line.startswith("--from=build")] == []


def test_packages_are_installed_by_their_hashes() -> None:
    installs = [line for line in starting("RUN") if "pip install" in line]
    assert installs and all("--require-hashes" in line for line in installs)


def test_what_it_copies_is_here_and_is_let_through_to_the_builder() -> None:
    let_through = {line[1:] for line in tree.text(".dockerignore").splitlines() if line[:1] == "!"}
    sources = {line.split()[0] for line in starting("COPY", BUILD)}
    assert sources == let_through
    assert [name for name in sources if not (tree.ROOT / name).exists()] == []


def test_it_runs_as_a_number_that_is_not_root() -> None:
    (user,) = starting("USER", FINAL)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert "SEAWALL_HOME=/var/lib/seawall" in TEXT and starting("VOLUME") == ["/var/lib/seawall"]


def test_its_health_is_that_of_the_loop_not_of_the_database() -> None:
    (check,) = starting("HEALTHCHECK", FINAL)
    assert "/livez" in check and "/readyz" not in check
    assert "SEAWALL_HEALTH_PORT=8641" in TEXT and "8641" in starting("EXPOSE")[0].split()


def test_the_command_says_which_service() -> None:
    assert starting("ENTRYPOINT") == ['["python", "-m"]']
    assert starting("CMD")[-1] == '["services.gateway"]'
