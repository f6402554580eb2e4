"""From one run config to the list of phases that will be executed. Pure: writes no file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import Group, PhaseEntry, PpoStage, Run


class Phase(Group):
    """One process's worth of work.

    :param folder: below ``phases/`` in the run directory.
    :param config: a full run config of its own; nothing is looked up elsewhere.
    :param source: the phase or run directory whose policy it starts from; None: the model as it is configured.
    :param start: continue an adapter, or merge it into the base and begin a new one.
    """

    name: str
    folder: str
    config: Run
    source: str | None
    start: Literal["continue", "merge"]


class Plan(Group):
    """What ``run.yaml`` holds."""

    title: str
    overrides: tuple[str, ...]
    phases: tuple[Phase, ...]


def make_plan(run: Run, overrides: Sequence[str]) -> Plan:
    """A phase for each of a curriculum's; for a run without one a single phase, named after its stage.

    :param overrides: the command line as it was typed, for the rerun command.
    :raises ConfigError: phases that do not follow from each other.
    """
    stage = run.stage.name
    if not run.phases:
        phases = [Phase(name=stage, folder=f"01-{stage}", config=_with_batch(run), source=None, start="continue")]
        parts = [run.model.name, stage, run.method.name]
    else:
        phases = [_phase(run, number, entry) for number, entry in enumerate(run.phases, 1)]
        parts = [phases[0].config.model.name, *(phase.name for phase in phases)]
    _check(run, phases)
    return Plan(title=run.run.name or "-".join(parts), overrides=tuple(overrides), phases=tuple(phases))


def _phase(run: Run, number: int, entry: PhaseEntry) -> Phase:
    config = Run.model_validate(entry.config)
    # What belongs to the run is the same for all, whatever a sweep or a resume made of it.
    config = _with_batch(config.model_copy(update={"run": run.run, "task": run.task, "tracker": run.tracker}))
    return Phase(
        name=entry.name, folder=f"{number:02d}-{entry.name}", config=config, source=entry.source, start=entry.start
    )


def _check(run: Run, phases: Sequence[Phase]) -> None:
    mistakes = []
    names = [phase.name for phase in phases]
    for name in run.run.phases or ():
        if name not in names:
            reason = f"no such phase. Phases: {', '.join(names)}."
            mistakes.append(Mistake("run.phases", reason, name, nearest(name, names)))
    before: dict[str, Phase] = {}
    for phase in phases:
        key = f"phases.{phase.name}"
        source = before.get(phase.source or "")
        if source is None and phase.source is not None and not Path(phase.source).is_dir():
            known = ", ".join(before) or "none"
            reason = f"is neither a phase before it nor a run directory. Phases before it: {known}."
            mistakes.append(Mistake(f"{key}.from", reason, phase.source, nearest(phase.source, before)))
        if source is not None and source.config.stage.name == "rm":
            mistakes.append(Mistake(f"{key}.from", "a reward model is no policy to start from", phase.source))
        if source is not None and phase.start == "continue":
            mistakes += _changed_adapter(key, source, phase)
        stage = phase.config.stage
        wanted = stage.reward_model if isinstance(stage, PpoStage) else None
        if wanted in names and (wanted not in before or before[wanted].config.stage.name != "rm"):
            reason = "is no phase with stage=rm that comes before"
            mistakes.append(Mistake(f"{key}.stage.reward_model", reason, wanted))
        before[phase.name] = phase
    if mistakes:
        raise ConfigError(mistakes)


def _changed_adapter(key: str, source: Phase, phase: Phase) -> list[Mistake]:
    """What a phase asks of an adapter that it gets as it is."""
    if source.config.method.name != "lora" or phase.config.method.name != "lora":
        return []
    had, asked = source.config.lora.model_dump(), phase.config.lora.model_dump()
    reason = "but the adapter that is carried on from phase {} has {}; {}.start=merge begins a new one"
    return [
        Mistake(f"{key}.lora.{name}", reason.format(source.name, had[name], key), value)
        for name, value in asked.items()
        if name not in ("loraplus_ratio", "dropout") and had[name] != value
    ]


def _with_batch(run: Run) -> Run:
    """``train.global_batch_size`` turned into the accumulation that it means on these devices."""
    total, step = run.train.global_batch_size, run.train.micro_batch_size * run.hardware.count
    if total is None:
        return run
    assert total % step == 0, "the rules have seen to this"
    train = run.train.model_copy(update={"gradient_accumulation_steps": total // step})
    return run.model_copy(update={"train": train})
