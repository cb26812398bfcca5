"""A time limit as a number of optimizer steps: how many fit is decided once, so that the schedule ends with them.

A training that a clock cuts off ends with a learning rate that is still high, and with worse weights than one of as
many steps that was planned. So the first steps are timed, and warm-up and cosine then span exactly the steps that fit.
"""

from __future__ import annotations

import math
import statistics
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vivit_core.system.activity import duration

BUDGET = "budget"  # its place in a checkpoint
DECIDES_AT = 10  # optimizer steps after which the number is decided; between two looks whether the plan holds
UNTIMED = 2  # first steps of a process, in which it compiles and allocates
RECENT = 3 * DECIDES_AT  # steps by whose median it is judged whether the machine has become slower
FORWARD = 0.4  # of a pass with gradients: what a pass without takes
LATEST, AIM = 1.2, 1.1  # of the limit: where a plan that is late is shortened, and to what
AFTER = 0.6  # of the limit: what passes after the last step may take at most, where they fit one twin


class Plan(NamedTuple):
    """What a time is used for.

    Attributes
    ----------
    steps : optimizer steps of the training.
    step_s : seconds of one, with its share of the validations.
    share : of the passes after the last step, those for which time is kept.
    """

    steps: int
    step_s: float
    share: float


class TimeBudget:
    """How many optimizer steps fit into a time, for one training; it follows the training step by step.

    - It decides after ``DECIDES_AT`` steps, however often the training was interrupted before: what the steps took is
      kept. From then on the number is part of the training's state, and a training that goes on keeps it.
    - The limit is a plan. Where the machine becomes slower afterwards, the training may take up to ``LATEST`` of the
      limit. Where it would take longer still, the number is lowered, to what fits into ``AIM`` of the limit, and the
      learning rate comes down earlier: also this training ends cooled down. The number is never raised. It is judged
      by the median of at least ``DECIDES_AT`` steps of this process, so neither a single slow step nor an
      interruption lowers it; and by validations, which are timed apart, and until the first one reckoned.
    - Of several processes the first decides, and the others :meth:`take` its number.

    Parameters
    ----------
    limit_s : seconds for the training, its validations included.
    most : optimizer steps that are trained where there is time for all of them.
    tell : is told the budget and a line of each decision.
    clock : seconds that pass.

    Attributes
    ----------
    steps : optimizer steps of the training; None until it is decided.
    step_s : seconds that a step took when it was last decided, with its share of the validations.
    share : of the passes after the last step, those for which there is time; all of them until it is decided.
    """

    def __init__(
        self,
        limit_s: float,
        most: int,
        tell: Callable[[TimeBudget, str], None] = lambda budget, line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s, self.most = limit_s, most
        self.steps: int | None = None
        self.step_s, self.share = 0.0, 1.0
        self._tell, self._clock = tell, clock
        self._decides_at = DECIDES_AT
        self._timed: list[float] = []  # seconds of the steps before the decision
        self._untimed: list[float] = []  # of those that are left out, in case there are no others
        self._spent = 0.0  # seconds in earlier processes
        self._first = 0  # step with which this process began
        self._began = self._before = clock()
        self._recent: deque[float] = deque(maxlen=RECENT)  # seconds of this process's last steps since the decision
        self._made = 0  # steps of the training
        self._validated: list[float] = []  # seconds of validations
        self._validating = 0.0  # when the one that goes on began

    def begin(self, step: int) -> None:
        """The training begins, or goes on, after so many steps."""
        self._first = self._made = step
        self._recent.clear()
        self._began = self._before = self._clock()
        if self.steps is None and self._decides_at <= step:  # continued under another limit than before
            self._decides_at = step + DECIDES_AT

    @property
    def spent(self) -> float:
        """Seconds of the training so far, those of earlier processes included."""
        return self._spent + self._clock() - self._began

    def made(self, step: int) -> bool:
        """A step was made, the ``step``-th; returns whether :meth:`proposal` is to be asked, alike in all processes."""
        now = self._clock()
        took_s, self._before, self._made = now - self._before, now, step
        timed = step - self._first > UNTIMED
        if self.steps is None:
            (self._timed if timed else self._untimed).append(took_s)
            return step == self._decides_at < self.most
        if timed:
            self._recent.append(took_s)
        return step % DECIDES_AT == 0 and step < self.steps

    def validation_begins(self) -> None:
        self._validating = self._clock()

    def validation_ends(self) -> None:
        took_s = self._clock() - self._validating
        self._validated.append(took_s)
        self._before += took_s  # it is no part of the next step

    def proposal(
        self, step: int, validation_passes: float, last_passes: float, every: int, fits: int = 1
    ) -> Plan | None:
        """Another plan from now on; None where all stays as it is.

        Parameters
        ----------
        step : optimizer steps that have been made.
        validation_passes : passes without gradients that come with each step, in passes with.
        last_passes : passes without gradients that follow the last step where time allows, in steps.
        every : steps from one validation to the next.
        fits : twins that they fit.
        """
        timed = (self._timed or self._untimed) if self.steps is None else self._recent
        if self.steps is not None and len(timed) < DECIDES_AT:
            return None
        bare_s = statistics.median(timed)
        reckoned_s = FORWARD * validation_passes * every * bare_s
        validation_s = statistics.median(self._validated) if self._validated else reckoned_s
        all_s = FORWARD * bare_s * last_passes
        most = fits * AFTER / (1 - AFTER + fits * AFTER)  # each as long beside the training as one alone

        def until(steps: int) -> float:
            """Seconds from now to the end of so many steps, the validation after the last one included."""
            return bare_s * (steps - step) + validation_s * (math.ceil(steps / every) - (step - 1) // every)

        def fitting(limit_s: float) -> int:
            """How many steps fit, none more than are made."""
            hoped = range(step + 1, max(step, min(self.most, step + int(limit_s / max(bare_s, 1e-9)))) + 1)
            return step + bisect_right(hoped, limit_s, key=until)

        left_s = self.limit_s - self.spent
        after_s = min(all_s, max(most * self.limit_s, left_s - until(self.steps or self.most)))
        share, step_s = after_s / all_s if all_s > 0 else 1.0, bare_s + validation_s / every
        if self.steps is None:
            return Plan(max(step + 1, fitting(left_s - after_s)), step_s, share)
        if self.spent + until(self.steps) + after_s <= LATEST * self.limit_s:
            return None
        least = max(step + DECIDES_AT, fitting(AIM * self.limit_s - self.spent - after_s))
        return Plan(min(self.steps, least), step_s, share)

    def take(self, plan: Plan) -> None:
        """From now on this is the number of steps, and this the share of what follows them."""
        before, (self.steps, self.step_s, self.share) = self.steps, plan
        if self.steps == before:
            return
        minutes = f"{self.limit_s / 60:.3g} min"
        of_all = f" of {self.most}" if self.steps < self.most else ""
        each = f"({self.step_s:.3g} s a step, validations included)"
        left_s = self.step_s * (self.steps - self._made)
        if before is None and self.spent + left_s > LATEST * self.limit_s:
            about = duration(self.spent + left_s)
            line = f"{self.steps}{of_all} steps, no fewer: about {about} on this machine {each}, and not {minutes}"
        elif before is None:
            line = f"{self.steps}{of_all} steps in at most {minutes} on this machine {each}"
        else:
            line = (
                f"it takes longer than was reckoned {each}: {self.steps} steps instead of {before}, to end near "
                f"{minutes}"
            )
        if self.share < 1:
            line += f"; the last fit has time for {self.share:.0%} of its training trials"
        self._tell(self, line)

    def forward_s(self, passes: int, accumulate: int) -> float:
        """About how many seconds so many passes without gradients take; ``accumulate`` passes are in a step."""
        return FORWARD * self.step_s * passes / accumulate

    def state_dict(self) -> dict[str, Any]:
        return {
            "limit_s": self.limit_s,
            "most": self.most,
            "steps": self.steps,
            "step_s": self.step_s,
            "share": self.share,
            "decides_at": self._decides_at,
            "timed": list(self._timed),
            "untimed": list(self._untimed),
            "spent": self.spent,
            "validated": list(self._validated),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was decided, if it was for the same limit and as many steps."""
        if state["steps"] is not None and not 0 < state["steps"] <= state["most"]:
            raise ValueError(f"a budget of {state['steps']} of {state['most']} steps")
        if not 0 < (share := float(state.get("share", 1.0))) <= 1:  # which older checkpoints lack
            raise ValueError(f"a budget that keeps time for {share} of the last fit")
        self._spent = float(state["spent"])
        if (state["limit_s"], state["most"]) != (self.limit_s, self.most):
            return
        self.steps, self.step_s = state["steps"], float(state["step_s"])
        self.share = share
        self._decides_at = int(state["decides_at"])
        self._timed, self._untimed = list(state["timed"]), list(state["untimed"])
        self._validated = list(state.get("validated", []))  # which older checkpoints lack
