"""``pilot.steps``: of a run's config that of its pilot, which remembers in ``pilot.full`` what the run itself has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftlab.config.rules import cross_group_mistakes
from ftlab.distributed.world import may_have_accelerator
from ftlab.errors import ConfigError, Mistake
from ftlab.schema import Run

METRICS = ("stop_rate", "length", "majority")  # of answers: what a verdict is about
_MEASURED = 2  # times that a pilot is evaluated, at half time and at its end


def shorten(run: Run, nf4: Mapping[str, Any]) -> Run:
    """The config of the pilot, where the run is to have one; else the run's own.

    :param nf4: the values of ``quant=nf4``.
    :raises ConfigError: ``pilot.full``, which is no key to set, is set.
    """
    steps = run.pilot.steps
    if run.pilot.full is not None:
        raise ConfigError([Mistake("pilot.full", "is written by ftlab; pilot.steps=N makes a pilot of a run")])
    if steps is None:
        return run
    train, measured = run.train, run.eval
    often = max(1, steps // _MEASURED)
    values: dict[str, Any] = {
        "train.max_steps": min(steps, train.max_steps or steps),
        "eval.steps": min(measured.steps, often),
        "eval.metrics": tuple(dict.fromkeys((*(measured.metrics or ()), *METRICS))),
    }
    if measured.generate_every is not None:
        values["eval.generate_every"] = min(measured.generate_every, often)
    if train.warmup_steps is not None and train.warmup_steps > often:
        values["train.warmup_steps"] = max(1, steps // 10)
    if run.pilot.quant == "auto" and _can_be_quantized(run, nf4):
        values |= {f"quant.{key}": value for key, value in nf4.items()}
    changed = {key: value for key, value in values.items() if _value(run, key) != value}
    full = {key: _value(run, key) for key in changed}
    return run.with_values({**changed, "pilot.full": full})


def _can_be_quantized(run: Run, nf4: Mapping[str, Any]) -> bool:
    """Whether there is a GPU for it, and the run may have a 4-bit base in the place of its whole one."""
    on_gpu = run.hardware.name not in ("auto", "cpu") or (run.hardware.name == "auto" and may_have_accelerator())
    if not on_gpu or run.quant.name != "none" or run.method.name != "lora":
        return False
    return not cross_group_mistakes(run.with_values({f"quant.{key}": value for key, value in nf4.items()}))


def _value(run: Run, key: str) -> Any:
    group, _, name = key.partition(".")
    return getattr(getattr(run, group), name)
