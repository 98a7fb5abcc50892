"""When services that were read one by one were read at one moment all the same."""

from __future__ import annotations

from shared.archive.files import State
from shared.archive.moments import Moment, first_ahead

TOPIC = "seawall.gateway.events"


def moment(*, head: int = 0, epoch: int = 1, **read: int) -> Moment:
    """A service whose own log ends at `head`, and which has read others up to `read`."""
    cursors = [(source, f"seawall.{source}.events", 3, 1, seq) for source, seq in read.items()]
    heads = {(f"seawall.{name}.events", 3): head for name in ("gateway", "scheduler")}
    return Moment(epoch, heads, State(cursors=cursors))


def test_what_was_read_is_in_the_log_it_is_of() -> None:
    moments = {"gateway": moment(head=5, scheduler=7), "scheduler": moment(head=7, gateway=5)}
    assert first_ahead(moments) == ""


def test_a_cursor_past_a_log_is_told() -> None:
    moments = {"gateway": moment(head=5), "scheduler": moment(gateway=6)}
    told = first_ahead(moments)
    assert "scheduler" in told and "6" in told and f"{TOPIC}/3" in told and "5" in told


def test_cursors_of_another_epoch_or_of_a_log_that_is_not_there_do_not_count() -> None:
    restored = {"gateway": moment(head=5, epoch=2), "scheduler": moment(gateway=6)}
    assert first_ahead(restored) == ""
    assert first_ahead({"scheduler": moment(gateway=6)}) == ""
