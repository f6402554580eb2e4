"""What a phase measures of its model: before, between and after its steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rich.markup import escape
from transformers import TrainerCallback

from ftlab.data.prepare import Example, Parts
from ftlab.data.tokens.templates import prompt_and_answer
from ftlab.distributed.shares import join_shares, own_share
from ftlab.distributed.world import ALONE
from ftlab.engine.metrics_log import Metrics, evaluation_line
from ftlab.engine.questions import asked_examples, asked_split, prompt_text
from ftlab.engine.session import Session
from ftlab.engine.trackers.rates import Rates
from ftlab.errors import RunDirError
from ftlab.measure.generate import generate_ids
from ftlab.measure.metrics import exact_match
from ftlab.measure.scores import Answers, AnyMetric, MetricError, resolve
from ftlab.policy.tokens import Tokens
from ftlab.rundir.files import set_damaged_aside, write_atomic
from ftlab.rundir.names import ANSWERED, BOUNDS, OF_GOLDEN
from ftlab.rundir.records import read_samples
from ftlab.rundir.summary import ANSWERS, GOLDEN, GOLDEN_COUNTS, PROMPTS, VALIDATION
from ftlab.schema import Run

BEFORE = "before training"
_GOLDEN = OF_GOLDEN.replace("_", " ")  # begins in tables and manifests what was measured of golden answers


@dataclass
class Measures:
    """Names to values, those of golden answers with the ends of their 95 % intervals, and some generations."""

    values: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    intervals: dict[str, list[float]] = field(default_factory=dict)


class Measuring:
    """Measures a phase's model, and writes what it finds to ``samples/``, ``metrics.jsonl`` and the trackers.

    :param phase: its name. :param run: its config. :param parts: its records, by split.
    """

    def __init__(self, session: Session, phase: str, run: Run, tokens: Tokens, parts: Parts, metrics: Metrics):
        self._session, self._phase, self._run, self._tokens, self._parts = session, phase, run, tokens, parts
        self._run_dir, self._output, self._metrics = session.run_dir, session.output, metrics
        self._steps_before = session.steps_before()
        self._split = asked_split(parts)

    def before(self, trainer: Any) -> Measures:
        """Once; a continued run reads what was measured before it was stopped."""
        kept = self._session.once(self._kept_before)
        if kept is not None:
            return Measures(**kept)
        measures = Measures(self._validation(trainer, 0))
        self._answer(measures, trainer, BEFORE)
        logged = {f"eval_{name.removeprefix(VALIDATION)}": value for name, value in measures.values.items()}
        if line := evaluation_line({**logged, **self._log(measures, 0)}):
            self._output.say(f"before training: {line}")
        self._write(measures, "before", 0)
        return measures

    def _kept_before(self) -> dict[str, Any] | None:
        kept = kept_samples(self._session, self._phase, "before")
        return kept if kept is not None and not self._has_lost_lines(kept["values"]) else None

    def _has_lost_lines(self, values: dict[str, float]) -> bool:
        """Whether nothing of what was measured before training is logged any more, and no checkpoint has it."""
        if self._metrics.is_begun or not values.keys() - {*GOLDEN_COUNTS}:
            return False
        return all(line["phase"] != self._phase or line["step"] > 0 for line in self._run_dir.read_metrics())

    def between(self, trainer: Any, rates: Rates) -> list[TrainerCallback]:
        """What answers the prompts every ``eval.generate_every`` steps, which is no training."""
        every = self._run.eval.generate_every
        if every is None:
            return []
        if not self._questions():
            self._output.say(f"[yellow]eval.generate_every={every}: {self._phase} has no prompts to answer[/yellow]")
            return []
        return [Answering(every, rates, lambda: self._between(trainer))]

    def after(self, trainer: Any, weights_of: int) -> Measures:
        """What was measured of the last step is not measured again; of weights that were loaded, everything is, and was
        logged before. :param weights_of: the step of the weights."""
        step = trainer.state.global_step
        is_answered = any(entry["step"] == weights_of and ANSWERED in entry for entry in trainer.state.log_history)
        measures = Measures(self._validation(trainer, step) if weights_of == step else self._loaded(trainer))
        is_last = is_answered and weights_of == step
        answered = self._session.once(lambda: kept_samples(self._session, self._phase, step)) if is_last else None
        if answered is not None:
            measures.values |= answered["values"]
            measures.samples = answered["samples"]
        else:
            self._answer(measures, trainer, "after training")
            if not is_answered:
                self._log(measures, step)
        self._write(measures, "after", step)
        return measures

    def _between(self, trainer: Any) -> None:
        step, measures = trainer.state.global_step, Measures()
        self._answer(measures, trainer, f"after step {step}")
        self._write(measures, step, step)
        # In every checkpoint from here on, so that a continued run knows of it.
        trainer.state.log_history.append({ANSWERED: True, **self._log(measures, step), "step": step})

    def _validation(self, trainer: Any, step: int) -> dict[str, float]:
        """What an evaluation finds, or found at this step."""
        if trainer.eval_dataset is None:
            return {}
        log = trainer.state.log_history
        found = next((e for e in log if e["step"] == step and "eval_loss" in e), None) or trainer.evaluate()
        logged = {name.removeprefix("eval_"): value for name, value in found.items() if name.startswith("eval_")}
        return {f"{VALIDATION}{name}": value for name, value in logged.items()}

    def _loaded(self, trainer: Any) -> dict[str, float]:
        """What the weights of an earlier step come to, now that they are the trainer's again."""
        found: dict[str, float] = {} if trainer.eval_dataset is None else trainer.measure()
        return {f"{VALIDATION}{name}": value for name, value in found.items()}

    def _log(self, measures: Measures, step: int) -> dict[str, float]:
        """What metrics.jsonl is told, if there is something."""
        found: dict[str, float] = {}
        for name, value in measures.values.items():
            if name.startswith(_GOLDEN) and name not in GOLDEN_COUNTS:
                key = name.replace(" ", "_")
                ends = zip(BOUNDS, measures.intervals.get(name, ()))
                found |= {key: value, **{f"{key}{end}": bound for end, bound in ends}}
        if not found:
            return {}
        self._metrics.write(step, dict(found))
        return found

    def _write(self, measures: Measures, when: str | int, step: int) -> None:
        if not self._session.writes:
            return
        path = self._run_dir.samples_file(self._phase, when)
        write_atomic(path, json.dumps(vars(measures), indent=2, ensure_ascii=False) + "\n")
        self._session.trackers.samples(path, self._steps_before + step)

    def _questions(self) -> list[Example]:
        """The rows whose answers are wanted."""
        return asked_examples(self._run, self._parts, self._tokens)

    def _answer(self, measures: Measures, trainer: Any, when: str) -> None:
        asked, template = self._questions(), self._tokens.template
        if not asked or template is None:
            return
        chosen: list[Any] = [example.record for example in asked]
        questions = [prompt_and_answer(record) for record in chosen]
        prompts = [template.prompt(messages, record.tools) for (messages, _), record in zip(questions, chosen)]
        # Of sharded weights every process has to call the model equally often.
        world = self._session.ranks.world if trainer.sharding.is_whole else ALONE
        mine = own_share(prompts, world)
        with self._output.progress(f"answering {self._split} prompts {when}", len(mine)) as bar:

            def advance(count: int) -> None:
                bar.advance(count)
                self._session.ranks.beat()

            with trainer.autocast_smart_context_manager():  # in the arithmetic of training, before it as after it
                written = generate_ids(
                    trainer.model, self._tokens.tokenizer, mine,
                    max_new_tokens=self._run.eval.max_new_tokens, batch_size=self._run.eval.batch_size,
                    max_tokens=tokens_at_once(self._run, trainer.rows_at_once),
                    stop=self._tokens.stop, advance=advance, is_sharded=not trainer.sharding.is_whole,
                )  # fmt: skip
            trainer.sharding.release(trainer.model)
        written = join_shares(written, len(prompts), world)
        answers = self._tokens.tokenizer.batch_decode(written, skip_special_tokens=True)
        if self._split == "golden":
            measures.values[PROMPTS] = len(prompts)
            scored = [(text, answer) for text, (_, answer) in zip(answers, questions) if answer]
            if scored:
                measures.values[GOLDEN] = exact_match(*zip(*scored))
                measures.values[ANSWERS] = len(scored)
            self._score(measures, asked, answers, written, when)
        measures.samples = [
            {"prompt": prompt_text(messages), "expected": answer, "answer": text}
            for (messages, answer), text in list(zip(questions, answers))[: self._run.eval.samples]
        ]

    def _score(self, measures: Measures, asked: Sequence[Example], answers: list[str], written: Any, when: str) -> None:
        """What ``eval.metrics`` makes of the answers. A function that fails in mid-run is told, and has no value.

        :raises MetricError: it failed before training, or weights are chosen by it.
        """
        if self._run.eval.metrics is None:
            return
        questions = [prompt_and_answer(example.record) for example in asked]  # type: ignore[arg-type]
        rows = [example.row if isinstance(example.row, Mapping) else {} for example in asked]
        stopped = [bool(ids) and ids[-1] in self._tokens.stop for ids in written]
        given = Answers(
            prompts=[messages for messages, _ in questions],
            predictions=answers,
            references=[answer or None for _, answer in questions],
            tokens=[len(ids) - is_ended for ids, is_ended in zip(written, stopped)],
            stopped=stopped,
            columns={
                name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)
            },
        )
        values, intervals, failures = self._session.once(lambda: self._scores(given))
        measures.values |= values
        measures.intervals |= intervals
        for name, reason in failures.items():
            chooses = self._run.train.keeps_best and self._run.train.best_metric.startswith(f"{OF_GOLDEN}{name}")
            if chooses or when == BEFORE:
                raise MetricError(reason)
            self._output.say(f"[yellow]{escape(reason)} It has no value {when}.[/yellow]")

    def _scores(self, given: Answers) -> tuple[dict[str, float], dict[str, list[float]], dict[str, str]]:
        """Values, the ends of intervals, and why some have none, each by its name."""
        values: dict[str, float] = {}
        intervals: dict[str, list[float]] = {}
        failures: dict[str, str] = {}
        for metric in self._metrics_of_answers:
            if metric.needs_references and not given.has_references:
                continue
            try:
                scores = metric.score(given, self._run.seed)
            except MetricError as error:
                failures[metric.name] = str(error)
                continue
            for score in scores:
                label = f"{OF_GOLDEN}{score.name}".replace("_", " ")
                values[label] = score.value
                if score.bounds is not None:
                    intervals[label] = [*score.bounds]
        return values, intervals, failures

    @cached_property
    def _metrics_of_answers(self) -> list[AnyMetric]:
        return resolve(self._run.eval.metrics or ())


class Answering(TrainerCallback):
    """Has the prompts answered after every so many steps, before anything is logged or saved of the step."""

    def __init__(self, every: int, rates: Rates, answer: Callable[[], None]):
        self._every, self._rates, self._answer = every, rates, answer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._every == 0:
            self._rates.pause()
            self._answer()


def tokens_at_once(run: Run, rows: int) -> int:
    """How many tokens' keys and values take no more memory than training does.

    Of h numbers in a hidden state, a cached token takes at most 2 h in a layer, and one that trains some 34 h
    (https://arxiv.org/abs/2205.05198, equation 2, in 16 bits, attention scores aside); h, and one layer's 34 h, where
    activations are computed again.
    """
    trained = rows * run.data.max_length
    return trained if run.train.gradient_checkpointing else 8 * trained


def kept_samples(session: Session, phase: str, when: str | int) -> dict[str, Any] | None:
    """What was measured at that time; None where nothing was, or where that is damaged: it is moved aside, which is
    said, and measured again.

    :raises RunDirError: something else than a file is in its place.
    """
    path = session.run_dir.samples_file(phase, when)
    try:
        return read_samples(path)
    except RunDirError as error:
        if not path.is_file():
            raise
        line = f"{error} It was moved to {set_damaged_aside(path)}, and is measured again."
        session.output.say(f"[yellow]{escape(line)}[/yellow]")
        return None
