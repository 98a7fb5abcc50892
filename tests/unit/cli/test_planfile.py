"""Plan files on disk: lines in every message, scripts beside the plan."""

import base64
from pathlib import Path

import pytest

from schemas.definitions import Problem, parse_request
from services.cli.planfile import PlanFileError, read_plan_file

PLAN = """\
name: shop
protected_site: east
recovery_site: west
replication: {interval: 15m}
recovery:
  pre_script: {run: scripts/page.sh, runtime: bash}
vms:
  - name: db
    boot_order: 1
  - {name: web, boot_order: 2}
"""


def write(folder: Path, text: str = PLAN) -> Path:
    (folder / "scripts").mkdir()
    (folder / "scripts" / "page.sh").write_bytes(b"echo page\n")
    file = folder / "shop.yaml"
    file.write_text(text)
    return file


def lines(file: Path) -> list[str]:
    with pytest.raises(PlanFileError) as caught:
        read_plan_file(file)
    return [line.replace(str(file), file.name) for line in caught.value.lines]


def test_a_good_file_gives_the_wire_form_the_service_reads(tmp_path: Path) -> None:
    plan = read_plan_file(write(tmp_path))
    wire = plan.wire()
    assert wire["scripts"] == {"scripts/page.sh": base64.b64encode(b"echo page\n").decode()}
    assert parse_request(wire).definition.vms[1].name == "web"


def test_problems_name_file_line_field_found_and_allowed(tmp_path: Path) -> None:
    text = PLAN.replace("boot_order: 1", "boot_order: one").replace("interval", "intervall")
    assert lines(write(tmp_path, text)) == [
        "shop.yaml:4: replication.interval: found nothing; allowed: a duration such as 300ms, "
        "90s, 15m, 4h or 7d, from 1s to 30d",
        'shop.yaml:4: replication.intervall: found an unknown key "intervall"; allowed: '
        "blackouts, compression, interval, over_capacity, priority, quiesce, spread, start_at, "
        'synchronize; did you mean "interval"?',
        'shop.yaml:9: vms[0].boot_order: found "one"; allowed: a whole number from 1 to 1000',
    ]


def test_a_script_that_is_not_there_is_named_once_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, PLAN.replace("page.sh", "none.sh"))
    assert lines(file) == [
        'shop.yaml:6: recovery.pre_script.run: found "scripts/none.sh": no such file or '
        "directory; allowed: the path of a file, relative to the plan file"
    ]


def test_a_folder_instead_of_a_script_is_a_problem(tmp_path: Path) -> None:
    (line,) = lines(
        write(tmp_path, PLAN.replace("scripts/page.sh, runtime: bash", "scripts, runtime: sh"))
    )
    assert "is not a regular file" in line


def test_bad_yaml_and_a_missing_file_name_the_place(tmp_path: Path) -> None:
    file = write(tmp_path, PLAN + "vms: []\n")
    assert lines(file) == ['shop.yaml:11:1: duplicate key "vms", first on line 7']
    with pytest.raises(PlanFileError, match="No such file"):
        read_plan_file(tmp_path / "none.yaml")


def test_problems_of_the_service_get_their_lines(tmp_path: Path) -> None:
    plan = read_plan_file(write(tmp_path))
    rendered = plan.render(
        [
            Problem(path=("scripts", "scripts/page.sh"), found="x", allowed="y"),
            {"path": ["vms", 1, "name"], "found": '"web"', "allowed": "a VM of east"},
        ]
    )
    assert [line.split("shop.yaml")[1] for line in rendered] == [
        ":6: recovery.pre_script.run: found x; allowed: y",
        ':10: vms[1].name: found "web"; allowed: a VM of east',
    ]
