"""``ftlab evaluate RUN``: loads, measures, compares, and writes it down."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.libraries import quiet_libraries
from ftlab.base.paths import shown_path
from ftlab.base.progress import stderr_bar
from ftlab.base.terminal import echo, echo_json
from ftlab.errors import ConfigError, Mistake, OutOfMemoryError
from ftlab.measure import scores
from ftlab.policy.given import Given, absolute
from ftlab.preflight.reachable import check_base
from ftlab.rundir.directory import RunDir
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.rundir.start_folder import started_from
from ftlab.schema import EvaluateTask, Run

if TYPE_CHECKING:
    from ftlab.use.evaluate.kept import Evaluation, KeptEvaluation, Subject

    Kind = Callable[[Subject], KeptEvaluation]

BASE = "base"  # in compare: what the run began with
# What an evaluation may have otherwise than the run.
_GROUPS = ("data", "eval", "quant", "hardware")
_KEYS = ("seed", "model.attention")


def evaluate(run: Run, overrides: Sequence[str]) -> None:
    """Measure a run, and what it is compared with; write ``evaluation.json``, ``predictions.jsonl`` and a table.

    :raises ConfigError: no run is named, or keys and metrics that there are not. :raises RunDirError: it is no run, or
        has no weights. :raises NotReadyError: a model or a package is missing. :raises DataError: the rows.
    :raises MetricError: a metric failed; all else is written.
    """
    task = run.task
    assert isinstance(task, EvaluateTask)
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", "ftlab evaluate needs a run directory: ftlab evaluate outputs/my-run")])
    if wrong := scores.check(run.eval.metrics):
        raise ConfigError(wrong)
    given = Given.read(run, overrides, _GROUPS, _KEYS)
    if wrong := _suite_mistakes(task, given):
        raise ConfigError(wrong)
    task = _absolute_paths(task)
    folder = Path(run.run.dir).expanduser()
    others = [name if name == BASE else str(_run_folder(name)) for name in task.others]
    out = None if task.out is None else Path(task.out).expanduser().absolute()
    _run_folder(run.run.dir)
    quiet_libraries()
    with warnings.catch_warnings(action="ignore"):  # of libraries, to whoever calls them
        _Command(task, given, folder, others, out, run.run.checkpoint).run()


def _suite_mistakes(task: EvaluateTask, given: Given) -> list[Mistake]:
    """What of ``suite``, ``tasks`` and the data has nothing to do with the rest."""
    of_data = [key for key in given.values if key.partition(".")[0] == "data" and key != "data.max_length"]
    if task.suite is not None:
        reason = f"suite={task.suite} has questions of its own, those that tasks names"
        found = [Mistake(key, reason) for key in of_data]
        if task.suite == "multiple_choice" and task.few_shot and task.few_shot_file is None:
            reason = "shows questions with their answers; say where they are: few_shot_file=FILE"
            found.append(Mistake("task.few_shot", reason, task.few_shot))
        return found
    keys = [key for key in ("tasks", "few_shot", "few_shot_file") if getattr(task, key) not in (None, ())]
    return [Mistake(f"task.{key}", "is of suite=multiple_choice or suite=lm_eval") for key in keys]


def _absolute_paths(task: EvaluateTask) -> EvaluateTask:
    """Files as they are from the current folder: where the run's paths start from, they are the same."""
    is_file = [task.suite == "multiple_choice" or name.endswith((".yaml", ".yml")) for name in task.tasks]
    tasks = tuple(str(Path(name).expanduser().absolute()) if file else name for name, file in zip(task.tasks, is_file))
    files = {
        key: None if (value := getattr(task, key)) is None else str(Path(value).expanduser().absolute())
        for key in ("few_shot_file", "reward_model")
    }
    return task.model_copy(update={"tasks": tasks, **files})


def _run_folder(name: str) -> Path:
    """:raises RunDirError: there is no run."""
    return RunDir.open(Path(name).expanduser()).path


class _Command:
    def __init__(
        self, task: EvaluateTask, given: Given, folder: Path, others: Sequence[str], out: Path | None, step: int | None
    ):
        self._task, self._given, self._folder, self._others = task, given, folder, others
        self._out, self._step = out, step

    def run(self) -> None:
        from ftlab.measure.scores import MetricError
        from ftlab.use.evaluate.compare import compare
        from ftlab.use.evaluate.table import console, report

        kind = self._kind()
        evaluation = self._evaluate(self._folder, False, kind, self._out)
        contrasts = []
        for name in self._others:
            is_base = name == BASE
            other = self._evaluate(self._folder if is_base else Path(name), is_base, kind, None)
            contrasts.append((name, compare(evaluation, other)))
        evaluation.values["compare"] = {name: {one.name: one.values for one in found} for name, found in contrasts}
        files = EvaluationDir(evaluation.folder)
        with files:
            files.write(evaluation.values)
            files.write_table(_as_text(list(report(evaluation, contrasts))))
        if self._task.format == "json":
            echo_json(evaluation.values)
        else:
            to = console()
            for line in report(evaluation, contrasts, to.known_width):
                to.print(line, soft_wrap=isinstance(line, Text))
            echo(f"written to {shown_path(evaluation.folder)}")
        if evaluation.failures:
            raise MetricError("\n".join(evaluation.failures.values()))

    def _kind(self) -> Kind:
        """What is evaluated: the same for all that is compared."""
        if self._task.suite == "lm_eval":
            from ftlab.use.evaluate.harness import HarnessEvaluation

            return HarnessEvaluation
        if self._task.suite == "multiple_choice":
            return self._choices()
        from ftlab.rundir.sources import weights_of_run
        from ftlab.use.evaluate.answers import RowsEvaluation
        from ftlab.use.evaluate.rewards import RewardEvaluation
        from ftlab.use.evaluate.rows import read_split

        with started_from(self._folder) as folder:
            phase = weights_of_run(folder, self._task.phase, self._step).phase
            config = self._given.merged(absolute(phase.config))
            split = read_split(config, self._task.split, self._task.limit, self._given.has_other_data, stderr_bar)
        return lambda subject: (RewardEvaluation if _is_reward_model(subject) else RowsEvaluation)(subject, split)

    def _choices(self) -> Kind:
        from ftlab.use.evaluate.choices import ChoicesEvaluation, read_choices

        task = self._task
        asked = read_choices(task.tasks, task.limit)
        shown = read_choices([task.few_shot_file], task.few_shot) if task.few_shot and task.few_shot_file else []
        return lambda subject: ChoicesEvaluation(subject, asked, shown)

    def _evaluate(self, folder: Path, is_base: bool, kind: Kind, out: Path | None) -> Evaluation:
        """:param is_base: whether what the run began with is meant."""
        from ftlab.policy.from_run import find_policy
        from ftlab.stages.trainer.out_of_memory import is_out_of_memory
        from ftlab.use.evaluate.kept import Subject

        is_other = folder != self._folder
        phase, step = (None, None) if is_other else (self._task.phase, self._step)
        with started_from(folder) as named:
            policy = find_policy(named, phase, step, lambda config: self._given.merged(absolute(config)))
            policy = policy.base if is_base else policy
            check_base(policy.config)
            try:
                return kind(Subject(policy, str(folder), is_base, self._task, out, stderr_bar)).run()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                size = policy.config.eval.batch_size
                raise OutOfMemoryError(
                    f"Out of memory. Smaller batches take less: eval.batch_size={max(size // 2, 1)}. What was answered "
                    "is kept: the same command with it goes on."
                ) from None


def _is_reward_model(subject: Subject) -> bool:
    return subject.policy.config.stage.name == "rm"


def _as_text(lines: Sequence[Any]) -> str:
    file = io.StringIO()
    to = Terminal(file=file, width=160, highlight=False, emoji=False, color_system=None)
    for line in lines:
        to.print(line)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
