"""Requirement files agree with pyproject.toml; golden files of releases are kept."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from schemas.contract.compatibility import breaks
from tests.tidy import tree

SCHEMAS = "schemas/jsonschema/"
FILES = ["requirements.txt", "requirements-windows.txt", "requirements-dev.txt"]
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)", re.MULTILINE)


def project() -> dict[str, Any]:
    return dict(tomllib.loads(tree.text("pyproject.toml"))["project"])


def pinned(file: str) -> dict[str, str]:
    return {canonicalize_name(m["name"]): m["version"] for m in PINNED.finditer(tree.text(file))}


def unmet(wanted: list[str], available: dict[str, str]) -> list[str]:
    requirements = [Requirement(line) for line in wanted]
    return [
        str(need)
        for need in requirements
        if not need.specifier.contains(available.get(canonicalize_name(need.name), "0"))
    ]


def git(*words: str, cwd: Path = tree.ROOT) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=60)
    return done.stdout.decode()


def golden_edits_since_releases(cwd: Path) -> list[str]:
    """Golden files of a released version that are changed or gone."""
    return [
        f"{tag}: {name}"
        for tag in git("tag", "--list", "v*", cwd=cwd).split()
        for name in git("diff", "--name-only", "--diff-filter=MDR", tag, cwd=cwd).splitlines()
        if "golden" in Path(name).parent.parts
    ]


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_runtime_dependencies_are_pinned_within_their_bounds(file: str) -> None:
    assert unmet(project()["dependencies"], pinned(file)) == []


def test_tools_and_the_build_backend_are_pinned_within_their_bounds() -> None:
    build = tomllib.loads(tree.text("pyproject.toml"))["build-system"]["requires"]
    wanted = [*project()["optional-dependencies"]["dev"], *build]
    assert unmet(wanted, pinned("requirements-dev.txt")) == []


def test_the_windows_extra_is_pinned_apart_and_the_same_everywhere() -> None:
    extra = pinned("requirements-windows.txt")
    assert unmet(project()["optional-dependencies"]["windows"], extra) == []
    assert extra.items() <= pinned("requirements-dev.txt").items()
    assert not [name for name in pinned("requirements.txt") if name.startswith("dissect")]


def test_a_pin_outside_its_bounds_is_found() -> None:
    assert unmet(["a>=2", "b<3"], {"a": "1.9"}) == ["a>=2"]


def test_both_requirement_files_pin_the_same_versions() -> None:
    runtime, everything = pinned("requirements.txt"), pinned("requirements-dev.txt")
    assert runtime.items() <= everything.items()


@pytest.mark.parametrize("file", FILES)
def test_every_pin_has_a_hash(file: str) -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", tree.text(file), flags=re.MULTILINE)[1:]
    assert len(entries) == len(pinned(file))
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_changelog_knows_the_version_or_unreleased_changes() -> None:
    changelog = tree.text("CHANGELOG.md")
    assert f"## [{project()['version']}]" in changelog or "## [Unreleased]" in changelog


def test_golden_files_of_released_versions_are_never_edited() -> None:
    assert golden_edits_since_releases(tree.ROOT) == []


def schemas_broken_since_releases(cwd: Path) -> list[str]:
    """JSON Schemas of a released version to which documents of this build do not keep."""
    return [
        f"{tag}: {name}: {place}"
        for tag in git("tag", "--list", "v*", cwd=cwd).split()
        for name in git("ls-tree", "-r", "--name-only", tag, SCHEMAS, cwd=cwd).splitlines()
        for place in schema_breaks(git("show", f"{tag}:{name}", cwd=cwd), cwd / name)
    ]


def schema_breaks(old: str, now: Path) -> list[str]:
    """What a schema that was released forbids and its file now does."""
    return breaks(json.loads(old), json.loads(now.read_text())) if now.exists() else ["is gone"]


def test_schemas_of_released_versions_still_hold() -> None:
    assert schemas_broken_since_releases(tree.ROOT) == []


def test_a_schema_that_broke_since_a_release_is_found(tmp_path: Path) -> None:
    schema = tmp_path / SCHEMAS / "plan.v1.json"
    schema.parent.mkdir(parents=True)
    schema.write_text('{"properties": {"vm": {"type": "string"}}}')
    git("init", "--quiet", cwd=tmp_path)
    git("add", ".", cwd=tmp_path)
    git("commit", "--quiet", "--message", "release", cwd=tmp_path)
    git("tag", "v1", cwd=tmp_path)
    schema.write_text('{"properties": {"vm": {"type": "string"}, "job": {"type": "string"}}}')
    assert schemas_broken_since_releases(tmp_path) == []
    schema.write_text('{"properties": {"vm": {"type": "integer"}}}')
    assert schemas_broken_since_releases(tmp_path) != []
    schema.unlink()
    assert schemas_broken_since_releases(tmp_path) == [f"v1: {SCHEMAS}plan.v1.json: is gone"]


def test_an_edited_golden_file_is_found(tmp_path: Path) -> None:
    golden = tmp_path / "golden" / "plan-applied.v1.json"
    golden.parent.mkdir()
    golden.write_text("{}")
    git("init", "--quiet", cwd=tmp_path)
    git("add", ".", cwd=tmp_path)
    git("commit", "--quiet", "--message", "release", cwd=tmp_path)
    git("tag", "v1", cwd=tmp_path)
    assert golden_edits_since_releases(tmp_path) == []
    golden.write_text('{"name": "shop"}')
    assert golden_edits_since_releases(tmp_path) == ["v1: golden/plan-applied.v1.json"]
