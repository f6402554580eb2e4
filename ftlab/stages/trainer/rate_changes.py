"""A learning rate that is changed on the way: what is asked for holds from the next step, and goes on as the schedule
would. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Multiplier = Callable[[int], float]  # of the learning rate, by the number of steps that were taken


@dataclass(frozen=True)
class RateChange:
    """:param step: after which it was made. :param factor: what was asked for, as a share of what the schedule was
    made for: ``train.learning_rate`` of the config."""

    step: int
    factor: float


def changed_schedule(schedule: Multiplier, changes: Sequence[RateChange], warmup: int) -> Multiplier:
    """The schedule with its changes. The last of them counts.

    The rate that is asked for holds from the step after the change. What follows keeps the shape of the schedule: it
    falls in proportion, and never rises above what was asked for. A warm-up that is under way is over.

    :param schedule: as it was. :param warmup: steps of its warm-up.

    >>> linear = lambda step: max(0.0, 1 - step / 10)
    >>> rate = changed_schedule(linear, [RateChange(5, 2.0)], warmup=0)
    >>> [round(rate(step), 2) for step in (4, 5, 6, 9)]
    [0.6, 2.0, 1.6, 0.4]
    """

    def multiplier(step: int) -> float:
        made = [change for change in changes if change.step <= step]
        if not made:
            return schedule(step)
        change = made[-1]
        begun = schedule(max(change.step, warmup))
        share = schedule(step) / begun if step >= warmup and begun > 0 else 1.0
        return change.factor * min(1.0, share)

    return multiplier


class Rates:
    """The learning rates of an optimizer whose schedule may be changed.

    :param scheduler: torch's ``LambdaLR``, as every ``train.lr_scheduler`` is. :param warmup: steps of its warm-up.
    """

    def __init__(self, scheduler: Any, warmup: int):
        self._scheduler, self._warmup = scheduler, warmup
        self._schedules = [*scheduler.lr_lambdas]
        self._changes: list[RateChange] = []

    def change(self, change: RateChange) -> None:
        """From the next step on."""
        self._changes = sorted([*self._changes, change], key=lambda one: one.step)
        scheduler, taken = self._scheduler, self._scheduler.last_epoch
        # Plain functions leave no trace in the scheduler's state, which a checkpoint has.
        scheduler.lr_lambdas = [changed_schedule(one, self._changes, self._warmup) for one in self._schedules]
        rates = [base * now(taken) for base, now in zip(scheduler.base_lrs, scheduler.lr_lambdas)]
        for group, rate in zip(scheduler.optimizer.param_groups, rates):
            group["lr"] = rate
        scheduler._last_lr = rates
