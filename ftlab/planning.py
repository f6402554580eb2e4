"""From one run config to the list of phases that will be executed. Writes no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ftlab.distributed.world import planned_devices
from ftlab.errors import ConfigError, Mistake, RunDirError, nearest
from ftlab.rundir.claim import named_folder
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import WEIGHTS, Phase, Plan
from ftlab.rundir.sources import policy_of_run
from ftlab.schema import GrpoStage, PhaseEntry, PpoStage, Run, Stage


def make_plan(run: Run, overrides: Sequence[str]) -> Plan:
    """A phase for each of a curriculum's; for a run without one a single phase, named after its stage.

    :param overrides: the command line as it was typed, for the rerun command.
    :raises ConfigError: phases that do not follow from each other.
    """
    stage = run.stage.name
    run = run.model_copy(update={"run": run.run.model_copy(update={"checkpoint": None})})
    overrides = [one for one in overrides if one.lstrip("+").partition("=")[0] != "run.checkpoint"]
    if not run.phases:
        phases = [
            Phase(name=stage, folder=f"01-{stage}", config=_resolve_batch_size(run), source=None, start="continue")
        ]
        parts = [run.model.name, stage, run.method.name]
    else:
        phases = [_phase(run, number, entry) for number, entry in enumerate(run.phases, 1)]
        parts = [phases[0].config.model.name, *(phase.name for phase in phases)]
    _check(run, phases)
    return Plan(title=run.run.name or "-".join(parts), overrides=tuple(overrides), phases=tuple(phases))


def _phase(run: Run, number: int, entry: PhaseEntry) -> Phase:
    config = Run.model_validate(entry.config)
    # What belongs to the run is the same for all, whatever a sweep or a resume made of it.
    of_run = {"run": run.run, "sweep": run.sweep, "task": run.task, "tracker": run.tracker}
    config = _resolve_batch_size(config.model_copy(update=of_run))
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
    done = _finished_phases(run, phases)
    chosen = set(names if run.run.phases is None else run.run.phases) - done
    before: dict[str, Phase] = {}
    for phase in phases:
        key = f"phases.{phase.name}." if run.phases else ""
        if phase.source is not None:
            mistakes += _source_mistakes(key, phase, before, phase.name in chosen)
        for judged, named, value in _reward_models(phase.config.stage):
            mistakes += _reward_model_mistakes(f"{key}{judged}", named, value, names, before)
        before[phase.name] = phase
    if not mistakes:
        mistakes += _left_out_mistakes(run, phases, chosen, done)
    if mistakes:
        raise ConfigError(mistakes)


def _finished_phases(run: Run, phases: Sequence[Phase]) -> set[str]:
    """The phases that are finished in the directory that this command continues."""
    place = named_folder(run.run)
    if place is None or run.run.if_exists == "new":
        return set()
    run_dir = RunDir(place)
    return {phase.name for phase in phases if run_dir.phase_files(phase.folder).final.is_dir()}


def _source_mistakes(key: str, phase: Phase, before: Mapping[str, Phase], is_chosen: bool) -> list[Mistake]:
    """What keeps a phase from starting where its ``from`` says."""
    named = str(phase.source)
    source = before.get(named)
    if source is not None and source.config.stage.name == "rm":
        return [Mistake(f"{key}from", "a reward model is no policy to start from", named)]
    if source is None and not Path(named).is_dir():
        reason = f"is neither a phase before it nor a run directory. Phases before it: {', '.join(before) or 'none'}."
        return [Mistake(f"{key}from", reason, named, nearest(named, before))]
    if source is None:
        try:
            source = policy_of_run(Path(named))
        except RunDirError as error:
            # A run that is at work now may be done before the phases that are left here begin.
            return [Mistake(f"{key}from", str(error), named)] if is_chosen else []
    whose = f"phase {named}" if named in before else named
    mistakes = _other_weights(key, source, whose, phase)
    if phase.start == "continue":
        mistakes += _changed_adapter(key, source, whose, phase)
    return mistakes


def _other_weights(key: str, source: Phase, whose: str, phase: Phase) -> list[Mistake]:
    """What a phase asks of weights that it gets as they are. Template, attention and the like are its own."""
    had, asked = source.config.model, phase.config.model
    found = []
    for name in WEIGHTS:
        there, here = getattr(had, name), getattr(asked, name)
        if there == here or (there and here and Path(there).is_dir() and Path(there).resolve() == Path(here).resolve()):
            continue
        reason = (
            f"but phase {phase.name} goes on with the weights of {whose}, which began with model.{name}="
            f"{_format_value(there)}. Leave it at that, or begin anew with {key}from=none"
        )
        found.append(Mistake(f"{key}model.{name}", reason, _format_value(here)))
    return found


def _format_value(value: str | None) -> str:
    return "null" if value is None else value


def _changed_adapter(key: str, source: Phase, whose: str, phase: Phase) -> list[Mistake]:
    """What a phase asks of an adapter that it gets as it is."""
    if source.config.method.name != "lora" or phase.config.method.name != "lora":
        return []
    had, asked = source.config.lora.model_dump(), phase.config.lora.model_dump()
    reason = "but the adapter that is carried on from {} has {}; {}start=merge begins a new one"
    found = [
        Mistake(f"{key}lora.{name}", reason.format(whose, had[name], key), value)
        for name, value in asked.items()
        if name not in ("loraplus_ratio", "dropout") and had[name] != value
    ]
    seeds = source.config.seed, phase.config.seed
    if source.config.model.init == "random" and seeds[0] != seeds[1]:
        reason = f"but model.init=random drew the weights below the adapter of {whose} from seed {seeds[0]}"
        found.append(Mistake(f"{key}seed", reason, seeds[1]))
    return found


def _reward_models(stage: Stage) -> Iterator[tuple[str, str, str]]:
    """Reward models that a stage asks for: the key, the phase or run directory, and the value that names it."""
    if isinstance(stage, PpoStage) and stage.reward_model is not None:
        yield "stage.reward_model", stage.reward_model, stage.reward_model
    elif isinstance(stage, PpoStage | GrpoStage):
        for reward in stage.rewards:
            head, _, named = reward.partition(":")
            if head == "model" and named:
                yield "stage.rewards", named, reward


def _reward_model_mistakes(
    key: str, named: str, value: str, names: Sequence[str], before: Mapping[str, Phase]
) -> list[Mistake]:
    judges = [phase.name for phase in before.values() if phase.config.stage.name == "rm"]
    if named in judges or (named not in names and Path(named).expanduser().exists()):
        return []  # what is wrong with a folder is found by looking into it
    if named in names:
        return [Mistake(key, "is no phase with stage=rm that comes before.", value, judges[:1])]
    known = ", ".join(judges) or "none"
    reason = f"is neither a phase with stage=rm that comes before nor a run directory. Such phases: {known}."
    return [Mistake(key, reason, value, nearest(named, judges))]


def _left_out_mistakes(run: Run, phases: Sequence[Phase], chosen: set[str], done: set[str]) -> list[Mistake]:
    """Phases that ``run.phases`` leaves out, though those that it names start from them."""
    wanted, why = set(chosen), list[str]()
    for phase in reversed(phases):
        needs = {str(phase.source): "starts from"} if phase.name in wanted else {}
        if phase.name in wanted:
            needs |= {named: "is rewarded by" for _, named, _ in _reward_models(phase.config.stage)}
        for other in phases:
            if other.name in needs and other.name not in wanted | done:
                wanted.add(other.name)
                why.append(f"phase {phase.name} {needs[other.name]} {other.name}")
    if not why or run.run.phases is None:
        return []
    add = [phase.name for phase in phases if phase.name in wanted | set(run.run.phases)]
    reason = f"{', and '.join(why)}, which is neither chosen nor finished here. Choose run.phases=[{','.join(add)}]"
    return [Mistake("run.phases", reason, f"[{','.join(run.run.phases)}]")]


def _resolve_batch_size(run: Run) -> Run:
    """``train.global_batch_size`` turned into the accumulation that it means on these devices."""
    total, step = run.train.global_batch_size, run.train.micro_batch_size * planned_devices(run.hardware)
    if total is None:
        return run
    assert total % step == 0, "the rules have seen to this"
    train = run.train.model_copy(update={"gradient_accumulation_steps": total // step})
    return run.model_copy(update={"train": train})
