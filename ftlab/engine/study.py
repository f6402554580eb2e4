"""The study of a sweep: which trial comes next, and what has come of one. Optuna's, without its loop: whoever asks runs
the trial in a run directory, wherever that is, and tells what it came to.

What was asked for and told is in the study's storage. A trial that was not told of when a process ended is running
still for the next, under its number and with its values.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast

from ftlab.config.search import NODE, Parameter, Space
from ftlab.errors import ConfigError, Mistake, NotReadyError, RunDirError, first_line
from ftlab.preflight.packages import is_installed
from ftlab.rundir.files import write_atomic
from ftlab.rundir.sweep import Objective

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

_SWEEP, _JOB = "ftlab sweep", "ftlab job"  # in a trial: the sweep that it is of, and its number there
_ALONE = "sweep"  # the study's name in a file of its own
_ONE_SEQUENCE = ("GridSampler", "QMCSampler")  # whose trials are places in a sequence that is drawn once


class Study:
    """Asks Optuna for trials and tells it of them.

    :param config: the whole config, for a function that adds to the search space.
    :param file: that holds the study, where ``hydra.sweeper.storage`` names no other place.
    :param sweep: what marks the trials that are its own, where several sweeps have one study.
    :raises ConfigError: there is no such storage, or it holds another study.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], config: Any, file: Path, sweep: str):
        self._space, self._config, self._sweep = space, config, sweep
        self._extend = _function(space)
        self._study = _open(space, objectives, file, sweep)
        self._asked: dict[int, Trial] = {}

    def ask(self) -> tuple[int, tuple[str, ...]]:
        """A new trial: its number, from 0, and the overrides of its run.

        :raises ConfigError: the study is of another search space, or a function that adds to it fails.
        """
        from optuna.trial import TrialState, create_trial

        number = self.count
        marks = {_SWEEP: self._sweep, _JOB: number}
        self._study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=marks))
        return number, self._overrides(number)

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """What a trial has come to. :param values: by objective; None where it failed."""
        self._tell(number, values, "FAIL" if values is None else "COMPLETE")

    def stop(self, number: int, measured: tuple[int, float] | None) -> None:
        """A trial did so badly that whoever ran it has stopped it.

        :param measured: its last step at which the objective was measured, and the value; None: at none.
        """
        if measured is not None and len(self._study.directions) == 1:
            step, value = measured
            self._live(number).report(value, step)
        self._tell(number, None, "PRUNED")

    def _tell(self, number: int, values: Sequence[float] | None, state: str) -> None:
        from optuna.samplers import RandomSampler
        from optuna.trial import TrialState

        # That of a grid would end Optuna's own loop with the last trial, and there is none.
        self._study.sampler = RandomSampler() if self._space.options.tries_all else _sampler(self._space, number)
        self._study.tell(self._trial(number).number, values, TrialState[state])
        self._asked.pop(number, None)

    @property
    def count(self) -> int:
        """How many trials were asked for."""
        return len(self._own())

    @property
    def failed(self) -> list[int]:
        """The numbers of those that failed."""
        return [number for number, trial in self._own().items() if trial.state.name == "FAIL"]

    def running(self) -> list[tuple[int, tuple[str, ...]]]:
        """The trials that were asked for and not told of, each as :meth:`ask` gave it."""
        own = self._own()
        return [(number, self._overrides(number)) for number, trial in own.items() if not trial.state.is_finished()]

    def _own(self) -> dict[int, FrozenTrial]:
        trials = [one for one in self._study.get_trials(deepcopy=False) if one.user_attrs.get(_SWEEP) == self._sweep]
        return {trial.user_attrs[_JOB]: trial for trial in sorted(trials, key=lambda one: one.user_attrs[_JOB])}

    def _trial(self, number: int) -> FrozenTrial:
        return self._own()[number]

    def _live(self, number: int) -> Trial:
        from optuna.trial import Trial

        if number not in self._asked:
            self._study.sampler = _sampler(self._space, number)
            self._asked[number] = Trial(self._study, self._trial(number)._trial_id)
        return self._asked[number]

    def _overrides(self, number: int) -> tuple[str, ...]:
        """Of a trial that was asked for before, its values are what they were."""
        try:
            return _chosen(self._space, self._extend, self._config, self._live(number))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            reason = f"the study there is of another search space ({first_line(error)}). Name another"
            raise ConfigError([Mistake(f"{NODE}.study_name", reason, self._study.study_name)]) from None


def check(space: Space, config: Any) -> tuple[str, ...] | None:
    """What would keep a study from beginning. Nothing is written.

    :return: the overrides of a job as a function of the user's might choose them; None where there is none.
    :raises NotReadyError: Optuna is not installed.
    :raises ConfigError: there is no such sampler or function, or it does not take what it is given.
    """
    if not is_installed("optuna"):
        raise NotReadyError("hydra/sweeper=optuna needs the package optuna: pip install 'ftlab[sweeps]'")
    _quiet()
    import optuna

    sampler, extend = _sampler(space, 0), _function(space)
    if extend is None:
        return None
    return _chosen(space, extend, config, optuna.create_study(sampler=sampler).ask())


def _chosen(
    space: Space, extend: Callable[[Any, Trial], None] | None, config: Any, trial: Trial
) -> tuple[str, ...]:  # fmt: skip
    for parameter in space.parameters:
        _suggest(parameter, trial)
    if extend is not None:
        try:
            extend(config, trial)
        except Exception as error:
            named = space.options.custom_search_space
            reason = f"raised {type(error).__name__}: {first_line(error)}"
            raise ConfigError([Mistake(f"{NODE}.custom_search_space", reason, named)]) from error
    return space.overrides(trial.params)


def _suggest(parameter: Parameter, trial: Trial) -> None:
    name, step = parameter.name, parameter.step
    if parameter.kind == "choice":
        trial.suggest_categorical(name, [*parameter.choices])
    elif parameter.kind == "int":
        low, high = int(parameter.low), int(parameter.high)
        trial.suggest_int(name, low, high, step=int(step or 1), log=parameter.is_log)
    else:
        trial.suggest_float(
            name, parameter.low, parameter.high, step=None if parameter.is_log else step, log=parameter.is_log
        )


def _sampler(space: Space, number: int) -> BaseSampler:
    """The sampler for one trial. Its random state begins with the trial, so that a study which was stopped goes on as
    one that was not.

    :raises ConfigError: there is none, or it does not take these keys.
    """
    given, target = dict(space.options.sampler), str(space.options.sampler.get("_target_"))
    given.pop("_target_", None)
    if given.get("seed") is not None and not target.endswith(_ONE_SEQUENCE):
        given["seed"] = _seed(given["seed"], number)
    if space.options.tries_all:
        given["search_space"] = {parameter.name: parameter.values for parameter in space.parameters}
    try:
        sampler: BaseSampler = resolve_name(target)(**given)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError([Mistake(f"{NODE}.sampler", f"cannot be made: {first_line(error)}", target)]) from None
    return sampler


def _seed(seed: int, number: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])


def _function(space: Space) -> Callable[[Any, Trial], None] | None:
    """:raises ConfigError: there is no such function."""
    named = space.options.custom_search_space
    if named is None:
        return None
    try:
        file, _, name = named.rpartition(":")
        if not file.endswith(".py"):
            return _callable(resolve_name(named))
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return _callable(getattr(module, name))
    except Exception as error:  # whatever a module of the user's does
        reason = f"is no function, as own.py:function or package.module.function: {first_line(error)}"
        raise ConfigError([Mistake(f"{NODE}.custom_search_space", reason, named)]) from None


def _callable(found: Any) -> Callable[[Any, Trial], None]:
    if not callable(found):
        raise TypeError(f"{found!r} cannot be called")
    return found


def _open(space: Space, objectives: Sequence[Objective], file: Path, sweep: str) -> Any:
    """:raises ConfigError: there is no such storage, or it holds another study."""
    _quiet()
    import optuna

    options, directions = space.options, cast(Any, [one.direction for one in objectives])
    name = options.study_name or (_ALONE if options.storage is None else f"ftlab-{sweep}")
    try:
        study = optuna.create_study(
            storage=_storage(options.storage, file), study_name=name, directions=directions, load_if_exists=True,
            sampler=_sampler(space, 0), pruner=optuna.pruners.NopPruner(),
        )  # fmt: skip
    except ConfigError:
        raise
    except Exception as error:  # a database has its own
        if options.storage is None:
            raise RunDirError(f"{file} is damaged ({first_line(error)}). Give another sweep.name.") from None
        raise ConfigError(
            [Mistake(f"{NODE}.storage", f"cannot be used: {first_line(error)}", options.storage)]
        ) from None
    there = [direction.name.lower() for direction in study.directions]
    if there != directions:
        reason = f"the study there is to {' and '.join(there)}, and this is to {' and '.join(directions)}. Name another"
        raise ConfigError([Mistake(f"{NODE}.study_name", reason, name)])
    return study


def _storage(storage: str | None, file: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if storage is not None and "://" in storage:
        return storage
    path = Path(storage).expanduser() if storage is not None else file
    if storage is not None:
        return JournalStorage(JournalFileBackend(str(path)))
    # Whoever holds the lock of the sweep is alone with its file: what a process that was killed left is mended.
    lock = JournalFileOpenLock(str(path))
    lock_file = path.with_name(f"{path.name}.lock")
    lock_file.unlink(missing_ok=True)
    if path.is_file() and (text := path.read_text(encoding="utf-8", errors="replace")) and not text.endswith("\n"):
        write_atomic(path, text[: text.rfind("\n") + 1])  # a last line that was only half written
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _quiet() -> None:
    """What Optuna has to say is told by the jobs themselves."""
    from optuna import logging as of_optuna

    of_optuna.disable_default_handler()
    of_optuna.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ftlab\.engine\.study|optuna\.")
