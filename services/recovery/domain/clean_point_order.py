"""Which checkpoint a search tries next, and which one it offers. Pure.

*newest-first* tries one after another until one is clean. *bisect* halves what is left and rests
on an assumption that it cannot prove: that every checkpoint older than a clean one is clean, and
every one newer than an infected one infected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.clean_points import SearchOrder, Verdict

Verdicts = Mapping[str, Verdict]


def next_checkpoint(
    order: SearchOrder, checkpoints: Sequence[str], verdicts: Verdicts, *, tries_max: int = 0
) -> str:
    """The checkpoint to try now; empty where the search is over. `checkpoints` newest first.

    `tries_max` 0: no bound. One that did not come up, or that nobody can judge, says nothing
    about its neighbours: it is passed over.
    """
    if tries_max and len(verdicts) >= tries_max:
        return ""
    left = _left(order, checkpoints, verdicts)
    if not left:
        return ""
    return left[len(left) // 2] if order == "bisect" else left[0]


def newest_clean(checkpoints: Sequence[str], verdicts: Verdicts) -> str:
    """The newest checkpoint that was found clean; empty where none was."""
    return next((each for each in checkpoints if verdicts.get(each) == "clean"), "")


def _left(order: SearchOrder, checkpoints: Sequence[str], verdicts: Verdicts) -> Sequence[str]:
    """What may still hold the answer: newer than the newest clean one, when bisecting also older
    than the oldest infected one; and not tried."""
    end = len(checkpoints)
    if clean := newest_clean(checkpoints, verdicts):
        if order == "newest-first":
            return ()
        end = checkpoints.index(clean)
    begin = 0
    if order == "bisect":
        infected = [n for n, each in enumerate(checkpoints) if verdicts.get(each) == "infected"]
        begin = max(infected, default=-1) + 1
    return [each for each in checkpoints[begin:end] if each not in verdicts]
