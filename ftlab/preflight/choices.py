"""``hardware.fits_by``: what a ``hardware=`` preset chooses for a run that would not fit its memory, and be refused.

The same words choose the same on every machine: only the memory that the config itself gives counts. What a run began
with stays, on whatever it goes on, as keys do that were typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from ftlab.config.compose import override_keys
from ftlab.planning import make_plan
from ftlab.preflight import fit
from ftlab.preflight.memory import device_of
from ftlab.rundir.claim import begun_phases
from ftlab.rundir.plan import Phase, Plan
from ftlab.schema import Run
from ftlab.stages.trainer.remedies import Remedy, remedies

_ACCUMULATION = "train.gradient_accumulation_steps"
_ROWS = {"train.micro_batch_size", _ACCUMULATION}


def make_fitting_plan(run: Run, overrides: Sequence[str]) -> Plan:
    """As :func:`ftlab.planning.make_plan`, and each phase with what its preset chooses: written in run.yaml, so that a
    run goes on with it whatever later versions, or another preset, would choose.

    :param overrides: the command line; a key that it gives stays. :raises ConfigError: as make_plan does.
    :raises RunDirError: the run that it goes on with has a damaged run.yaml.
    """
    plan, begun = make_plan(run, overrides), begun_phases(run.run)
    typed = override_keys(overrides)
    phases = []
    for place, phase in enumerate(plan.phases):
        given = set(_of_phase(typed, phase.name, place))
        before = begun.get(phase.name)
        phases.append(_fitting(phase, given) if before is None else _as_begun(phase, before, given))
    return plan.model_copy(update={"phases": tuple(phases)})


def _of_phase(given: Iterable[str], name: str, place: int) -> Iterator[str]:
    """Keys of the command line as the phase has them."""
    for key in given:
        yield key.removeprefix(f"phases.{name}.").removeprefix(f"phases.{place}.")


def _fitting(phase: Phase, given: set[str]) -> Phase:
    run = phase.config
    keys = set[str](run.hardware.fits_by) - given
    if keys | {_ACCUMULATION} >= _ROWS and _ACCUMULATION not in given:
        keys |= _ROWS  # a step has as many rows as before
    if not keys or not device_of(run).is_given or _verdict(run) != "does not fit":
        return phase
    options = [one for one in remedies(run) if one.values.keys() <= keys]
    chosen = _cheapest(run, options)
    values = {key: value for one in chosen for key, value in one.values.items()}
    words = tuple(one.override for one in chosen)
    return phase.model_copy(update={"config": run.with_values(values), "chosen": words})


def _as_begun(phase: Phase, before: Phase, given: set[str]) -> Phase:
    """With what was chosen when it began, where that is. :param before: as its run has it."""
    had, train = before.config.train.model_dump(), phase.config.train
    keys = {word.partition("=")[0] for words in before.chosen for word in words.split()} - given
    values = {key: had[key.removeprefix("train.")] for key in keys - _ROWS}
    rows, size = train.micro_batch_size * train.gradient_accumulation_steps, before.config.train.micro_batch_size
    if keys & _ROWS and "train.micro_batch_size" not in given:
        values["train.micro_batch_size"] = size
        if _ACCUMULATION not in given and rows % size == 0:  # on other devices it is another
            values[_ACCUMULATION] = rows // size
    return phase.model_copy(update={"config": phase.config.with_values(values), "chosen": before.chosen})


def _cheapest(run: Run, options: Sequence[Remedy]) -> Sequence[Remedy]:
    """What costs least time or quality and fits; what is tight where nothing does better; nothing where nothing helps,
    for a refusal to say what would."""
    sets = [chosen for many in range(1, len(options) + 1) for chosen in combinations(options, many)]
    tight: Sequence[Remedy] = ()
    for chosen in sorted(sets, key=fit.cost):
        if (changed := fit.changed(run, chosen)) is None:
            continue
        found = _verdict(changed)
        if found == "fits":
            return chosen
        if found == "tight":
            tight = tight or chosen
    return tight


def _verdict(run: Run) -> fit.Verdict:
    """Of the device and of the main memory, where the config gives that."""
    found = fit.predict(run, device_of(run))
    host = fit.predict_host(run, found)
    return fit.worse(fit.verdict(found), fit.host_verdict(host) if host.is_given else "fits")


def chosen_line(phase: Phase) -> str | None:
    """What was chosen, for its user; None where nothing was."""
    if not phase.chosen:
        return None
    return (
        f"hardware={phase.config.hardware.name} chose {' '.join(phase.chosen)}, without which this would not fit "
        "(hardware.fits_by)"
    )
