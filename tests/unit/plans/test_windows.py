"""What a plan may say about a VM that is a Windows."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import plans
from schemas.definitions import DefinitionErrors, parse_plan
from tests.unit.plans.test_definitions import SHOP


def vm_with(**fields: Any) -> plans.VmDefinition:
    document = {**SHOP, "recovery": {}, "vms": [{"name": "ad", **fields}]}
    return parse_plan(document, scripts={}).vms[0]


def test_a_windows_is_validated_unless_its_plan_says_otherwise() -> None:
    assert vm_with().windows.validate
    assert not vm_with(windows={"validate": False}).windows.validate


@pytest.mark.parametrize("wrong", [{"validate": "no"}, {"valdate": True}, True])
def test_anything_else_is_refused_at_its_place(wrong: Any) -> None:
    with pytest.raises(DefinitionErrors) as caught:
        vm_with(windows=wrong)
    assert "windows" in str(caught.value)
