"""What the jobs of a sweep are compared by: ``sweep.objective`` and ``sweep.direction``, before any job runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftlab.config import search
from ftlab.config.rules import golden_measures, training_measures, validation_measures
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.rundir.compare import lower_is_better
from ftlab.rundir.names import EXACT_MATCH
from ftlab.rundir.summary import EVALUATED, MAIN
from ftlab.rundir.sweep import Objective
from ftlab.schema import Run

KEY = "sweep.objective"
_RATE = "tokens_per_second"
_OF_REWARDS = f"{EVALUATED}rewards/"  # begins the measure of each reward function of grpo


def logged(run: Run) -> list[str]:
    """The measures that a run will log, as ``metrics.jsonl`` names them; of a curriculum those of its last phase."""
    run = _last_phase(run)
    splits = run.data.split
    found = [f"{EVALUATED}{name}" for name in validation_measures(run)] if splits.validation != "none" else []
    if run.stage.name not in ("pt", "rm") and splits.golden != "none" and run.eval.golden_rows:
        found += golden_measures(run)
    return [*found, *training_measures(run), _RATE]


def mistakes(run: Run) -> list[Mistake]:
    """What is wrong with the objectives of a sweep that has this run."""
    known, names = logged(run), _listed(run.sweep.objective)
    found = [_unknown(run, name, known) for name in names if not _is_logged(run, name, known)]
    if len({*names}) < len(names):
        found.append(Mistake(KEY, "names a measure twice", ",".join(names)))
    return found


def read(of_hydra: Any, run: Run) -> tuple[Objective, ...]:
    """The objectives of a sweep; none where what its runs have measured is to say. A sweeper that learns from them has
    at least one, the main measure of the stage.

    :param of_hydra: the node ``hydra`` of a config. :param run: that of its first job.
    :raises ConfigError: directions that are not those of the objectives, or nothing that the sweeper could learn from.
    """
    names, direction, key = _listed(run.sweep.objective), run.sweep.direction, "sweep.direction"
    if search.is_search(of_hydra):
        own = search.options(of_hydra).direction
        if own != (list(direction) if isinstance(direction, tuple) else direction):
            direction, key = own, f"{search.NODE}.direction"
        names = names or [_main_measure(run)]
    return _with_directions(names, direction, key)


def default(run: Run) -> Objective:
    """What a run is compared by where nothing is said. :raises ConfigError: nothing is measured on held-out rows."""
    return _with_directions([_main_measure(run)], None, "sweep.direction")[0]


def _main_measure(run: Run) -> str:
    known = logged(run)
    found = next((f"{EVALUATED}{name}" for name in MAIN if f"{EVALUATED}{name}" in known), None)
    if found is None:
        reason = "something has to say how runs do, and data.split.validation=none leaves nothing to measure it on"
        raise ConfigError([Mistake(KEY, f"{reason}; name one of {', '.join(known)}", "null")])
    return found


def _with_directions(names: Sequence[str], direction: Any, key: str) -> tuple[Objective, ...]:
    """:param direction: of the config, under ``key``; None where it follows from the measures.

    :raises ConfigError: it is no direction, or there are not as many of them as of measures.
    """
    chosen = [direction] if isinstance(direction, str) else list(direction or ())
    if wrong := [one for one in chosen if one not in ("minimize", "maximize")]:
        raise ConfigError([Mistake(key, "must be one of: minimize, maximize.", str(wrong[0]))])
    if not chosen:
        chosen = ["minimize" if lower_is_better(name) else "maximize" for name in names]
    if len(chosen) != len(names):
        if not names:
            raise ConfigError([Mistake(key, f"says which way {KEY} is better, and there is none", chosen[0])])
        listed = ",".join("maximize" if not lower_is_better(name) else "minimize" for name in names)
        reason = f"{len(names)} objectives have one each: {key}=[{listed}], or none where that is meant anyway"
        raise ConfigError([Mistake(key, reason, ",".join(chosen))])
    return tuple(Objective(measure=name, direction=way) for name, way in zip(names, chosen))


def _listed(objective: str | tuple[str, ...] | None) -> list[str]:
    return [objective] if isinstance(objective, str) else list(objective or ())


def _is_logged(run: Run, name: str, known: Sequence[str]) -> bool:
    last = _last_phase(run)
    of_rewards = last.stage.name == "grpo" and name.startswith(_OF_REWARDS) and last.data.split.validation != "none"
    return name in known or of_rewards


def _unknown(run: Run, name: str, known: Sequence[str]) -> Mistake:
    last = _last_phase(run)
    where = f"stage={last.stage.name}" + (" with train.engine=trl" if last.train.engine == "trl" else "")
    rewards = f", {_OF_REWARDS}FUNCTION" if last.stage.name == "grpo" else ""
    reason = f"is never logged. Of {where} there will be {', '.join(known)}{rewards}."
    if name.startswith(EVALUATED) and last.data.split.validation == "none":
        reason = f"data.split.validation=none leaves nothing to measure it on. There will be {', '.join(known)}."
    elif name == EXACT_MATCH and last.stage.name not in ("pt", "rm"):
        reason = "no golden prompts are answered (data.split.golden, eval.golden_rows). "
        reason += f"There will be {', '.join(known)}."
    bare = name.removeprefix("validation ").removeprefix("validation_")
    near = [f"{EVALUATED}{bare}"] if f"{EVALUATED}{bare}" in known else nearest(name, known)
    return Mistake(KEY, reason, name, near)


def _last_phase(run: Run) -> Run:
    """The config that the last measures of a run are of."""
    chosen = [phase for phase in run.phases if run.run.phases is None or phase.name in run.run.phases]
    return Run.model_validate(chosen[-1].config) if chosen else run
