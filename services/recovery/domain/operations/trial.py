"""Test recovery: the sources are left alone and go on being replicated; ends with a cleanup."""

from __future__ import annotations

from typing import Final

from services.recovery.domain.operations.operation import Operation

TEST_RECOVERY: Final = Operation(
    mode="test", isolated=True, undoes_itself=True, ends_with="cleanup"
)
