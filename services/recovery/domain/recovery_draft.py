"""A decision about a recovery in the making; what it decides is `recovery`'s and its parts'."""

from __future__ import annotations

import datetime as dt
from typing import Any

from schemas import recovery_steering as steer
from services.recovery.domain import manual, prompts
from services.recovery.domain.draft import Draft
from services.recovery.domain.recovery_state import Recovery, gate, told
from services.recovery.domain.recovery_steered import evolve
from services.recovery.domain.vm_state import vm_stream
from shared.decider import Send


class RecoveryDraft(Draft[Recovery]):
    """What a decision about a recovery will be, and how its VMs and people are spoken to."""

    def __init__(self, state: Recovery, *, now: dt.datetime) -> None:
        super().__init__(state, now=now, evolve=evolve)

    def ask(self, question: steer.Question) -> None:
        """Ask people something about the recovery itself."""
        self.say(steer.RecoveryAsked(plan=told(self.state).plan, question=question))
        due = steer.AnswerDue(number=question.number)
        self.timers.append(prompts.timer(question, due))

    def ask_gate(self, order: int) -> bool:
        """Whether a boot order waits for a manual step; its person is asked, if not yet."""
        step = gate(self.state, order)
        if step is None:
            return False
        if self.state.question is None:
            number = self.state.asked + 1
            self.ask(manual.question(step, number=number, at=self.now))
        return True

    def tell_vm(self, vm: str, make: Any, **fields: Any) -> None:
        """Send a VM's own recovery the message that `make` makes."""
        start = told(self.state)
        message = make(stream=vm_stream(start.job, vm), **fields)
        self.sends.append(Send(to="recovery", key=start.plan, message=message))
