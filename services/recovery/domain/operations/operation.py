"""The shape of a mode's rules (product.md §5, the table of recovery operations)."""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.scheduler import RecoveryMode


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """How one mode of recovery differs.

    `isolated`: its instances see each other and nobody else, under names of their own.
    `source_step` names the step that shuts the sources down; "" leaves them alone. `forces`: one
    that ignores the shut-down is powered off. `trusts_word`: the operator's word stands for a
    source that cannot be reached. `together`: one source that cannot be secured, or one last sync
    that fails, undoes what was done to all of them. `undoes_itself`: the plan may want that it is
    undone where a VM did not come up. `ends_with` is what its instances wait for.
    """

    mode: RecoveryMode
    isolated: bool
    source_step: str = ""
    forces: bool = False
    trusts_word: bool = False
    together: bool = False
    undoes_itself: bool = False
    ends_with: Literal["cleanup", "commit"] = "commit"
