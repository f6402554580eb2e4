"""One phase of a run in this process: from its records to its final weights, measured before and after."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftlab.data import registry
from ftlab.data.asked import asked
from ftlab.data.formats import Labelled, Text
from ftlab.data.places import places
from ftlab.data.prepare import examples, prepare, split_parts
from ftlab.engine import report
from ftlab.engine.interruption import Interruption
from ftlab.engine.output import Output
from ftlab.engine.trackers.hub import Trackers
from ftlab.errors import RunDirError
from ftlab.plan import Phase, Plan
from ftlab.rundir import RunDir, checkpoints, is_whole, sha256, write_atomic
from ftlab.stages import policy, trainer_class

_NOT_MEASURES = (
    "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time",
    "eval_num_tokens",
)  # fmt: skip


@dataclass
class Measures:
    """What is measured before and after: names to values, and some generations."""

    values: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)


class Clock:
    """Seconds of work that went into a run, over all its starts: of those that were killed, up to their last line."""

    def __init__(self, run_dir: RunDir):
        last = run_dir.last_logged()
        self._spent = max(run_dir.manifest().get("seconds", 0), last["seconds"] if last else 0)
        self._started = time.monotonic()

    def seconds(self) -> float:
        return round(self._spent + time.monotonic() - self._started, 1)


class PhaseRun:
    """One phase in this process."""

    def __init__(
        self, run_dir: RunDir, plan: Plan, phase: Phase, output: Output, clock: Clock, interruption: Interruption,
        trackers: Trackers,
    ):  # fmt: skip
        self.run_dir, self.phase, self.output, self._clock = run_dir, phase, output, clock
        self._interruption, self._trackers = interruption, trackers
        self.folder = run_dir.phase(phase.folder)
        self.config = policy.starting(run_dir, plan, phase)
        self._look_at = report.look_at(run_dir, plan, phase)

    def run(self) -> None:
        data = self.config.data
        sources = registry.resolve(data, self.config.stage.name)
        self._check_same_data(sources)
        self._load_tokenizer()
        self.parts = split_parts(sources, data, self.config.seed)
        prepared = prepare(
            sources, self.parts, data, self.config.seed, self.template, self.tokenizer, self.output.progress
        )
        report.ledger(self.output, self.run_dir, self.phase.name, prepared)
        with self.output.console.status("loading the model"):
            self._load_model()
        self._train(prepared)

    def _check_same_data(self, sources: list[registry.Source]) -> None:
        """A run that goes on must read what it began with, or its weights belong to no data set at all."""
        for file in registry.changed_files(sources, self.run_dir.data_files(self.phase.name)):
            raise RunDirError(
                f"{file} has changed since {self.run_dir.path} began. Put the file back to continue, or start "
                "another run: run.if_exists=new, or another run.name."
            )

    def _load_tokenizer(self) -> None:
        from ftlab.stages.tokens import tokens_of

        self.tokens = tokens_of(self.config)
        self.tokenizer, self.template, self.stop = self.tokens.tokenizer, self.tokens.template, self.tokens.stop

    def _load_model(self) -> None:
        from ftlab.model import adapter
        from ftlab.stages.models import model_of

        self.model, added = model_of(self.config, self.tokens)
        additions = str(self.tokens.additions)
        if additions:
            self.output.say(escape(f"tokenizer: {additions}" + (f"; {added} embeddings added" if added else "")))
        self.parameters = adapter.count(self.model)
        self.output.say(f"{self.config.model.name}: {self.parameters}")

    def _train(self, prepared: Any) -> None:
        from transformers import set_seed

        from ftlab.engine import callbacks, stopping
        from ftlab.engine.trackers.rates import rates_of
        from ftlab.stages.common import StageTrainer

        checkpoint = self._newest_whole_checkpoint()
        step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
        is_measured = self._samples("before").is_file()
        callbacks.cut_back(self.run_dir.metrics, self.phase.name, checkpoint, is_measured)
        rates = rates_of(self.config, self.model, self.parameters, prepared.train)
        metrics = callbacks.Metrics(
            self.run_dir.metrics, self.phase.name, self._before(), self._clock.seconds, self._trackers, rates
        )
        beside = [rates, metrics, self._interruption]
        train, can_evaluate = self.config.train, prepared.validation is not None
        beside += stopping.callbacks(train, self.folder, can_evaluate, self.output.say)
        trainer = self._trainer(prepared, beside)
        self._probe(prepared)
        self.output.say(
            f"[dim]continue any time with: ftlab resume {escape(shlex.quote(str(self.run_dir.path)))}[/dim]"
        )
        if isinstance(trainer, StageTrainer):
            trainer.begin(self.output.progress)
        self._trackers.open()
        self._trackers.ledger(self.phase.name, self._before().steps)
        before = self._measured(trainer, "before", metrics, step=0, weights_of=0)
        with self.output.progress("training", _total_steps(trainer), "steps") as bar:
            trainer.add_callback(callbacks.Advance(self.output, bar))
            if checkpoint is not None and (step >= _total_steps(trainer) or stopping.is_over(checkpoint, train)):
                _restore(trainer, checkpoint)
            else:
                # What was computed before, and what was found in a cache, leaves no trace in the random state.
                set_seed(self.config.seed)
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if self._interruption.requested:
            raise KeyboardInterrupt
        kept = stopping.load_best(trainer, train, self.folder)
        self._save_final()
        after = self._measured(trainer, "after", metrics, step=trainer.state.global_step, weights_of=kept)
        self._finish(trainer, kept, before, after)

    def _before(self) -> Any:
        from ftlab.engine.callbacks import Before

        done = self.run_dir.manifest().get("phases", {}).values()
        return Before(sum(phase["steps"] for phase in done), sum(phase["tokens"] for phase in done))

    def _trainer(self, prepared: Any, beside: list[Any]) -> Any:
        rows: tuple[Any, Any] = (prepared.train, prepared.validation)
        if self.config.stage.name in ("ppo", "grpo"):
            held = prepared.validation
            validation = None if held is None else asked(self.parts["validation"], held)
            rows = (asked(self.parts["train"], prepared.train), validation)
        trainer = trainer_class(self.config)(self.config, self.model, self.tokenizer, *rows, str(self.folder), beside)
        trainer.watch(self.config.train.loss_spike, self._names(trainer, rows[0]), self.output.note, self._look_at)
        for chatter in ("PrinterCallback", "ProgressCallback"):
            for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == chatter]:
                trainer.remove_callback(callback)
        return trainer

    def _names(self, trainer: Any, rows: Any) -> Callable[[Sequence[int]], list[str]]:
        """What a user calls some of the rows that train."""
        from ftlab.data.store import Rows

        if not isinstance(rows, Rows):
            return lambda indices: [rows[index].where for index in indices]
        of_stage = trainer.train_dataset if isinstance(trainer.train_dataset, Rows) else rows
        return lambda indices: places(self.parts["train"], of_stage, indices)

    def _probe(self, prepared: Any) -> None:
        from ftlab.data.collate import PackedCollator
        from ftlab.stages.common import probe_isolation

        rows = (prepared.train[i] for i in range(len(prepared.train)))
        packed = next((row for row in rows if len(row.samples) > 1), None)
        if self.config.quant.name == "int8":
            self.output.note(
                "int8 chooses its outlier columns over the whole batch, packed or not: isolation not probed"
            )
        elif packed is not None:
            probe_isolation(self.model, packed, PackedCollator(self.tokenizer.pad_token_id))
            self.output.note("packed samples do not see each other: probed on the first packed row")

    def _newest_whole_checkpoint(self) -> Path | None:
        wanted = self.config.run.checkpoint
        for checkpoint in checkpoints(self.folder):
            if wanted is not None and checkpoint.name != f"checkpoint-{wanted}":
                continue
            if is_whole(checkpoint):
                self.output.say(f"continuing from {escape(str(checkpoint))}")
                return checkpoint
            said = f"{escape(str(checkpoint))} is torn (a file is missing or changed); passed over and removed"
            self.output.say(f"[yellow]{said}[/yellow]")
            shutil.rmtree(checkpoint)  # or it would count among those that are kept
        if wanted is not None:
            have = [c.name.rpartition("-")[2] for c in checkpoints(self.folder) if is_whole(c)]
            raise RunDirError(
                f"run.checkpoint={wanted}: {self.folder} has no whole checkpoint of that step. "
                f"It has: {', '.join(have) or 'none'}."
            )
        return None

    def _samples(self, when: str) -> Path:
        return self.run_dir.samples / f"{self.phase.name}-{when}.json"

    def _measured(self, trainer: Any, when: str, metrics: Any, step: int, weights_of: int) -> Measures:
        """Measure once; a continued run reads what was measured before it was stopped.

        :param weights_of: the step that the weights are of.
        """
        path = self._samples(when)
        if when == "before" and path.is_file():
            return Measures(**json.loads(path.read_text(encoding="utf-8")))
        measures = Measures()
        if trainer.eval_dataset is not None:
            logged = next((e for e in trainer.state.log_history if e["step"] == weights_of and "eval_loss" in e), None)
            found = logged or trainer.evaluate()
            measures.values = {
                f"validation {name.removeprefix('eval_')}": value
                for name, value in found.items()
                if name.startswith("eval_") and name not in _NOT_MEASURES
            }
        self._generate(measures, when)
        if "golden exact match" in measures.values:
            metrics.write(step, {"golden_exact_match": measures.values["golden exact match"]})
        write_atomic(path, json.dumps(vars(measures), indent=2, ensure_ascii=False) + "\n")
        self._trackers.samples(path, self._before().steps + step)
        return measures

    def _generate(self, measures: Measures, when: str) -> None:
        """Answer the golden prompts, or, without any, a few of the validation split."""
        from ftlab.data.templates import prompt_and_answer
        from ftlab.measure.generate import generate
        from ftlab.measure.metrics import exact_match

        split = "golden" if self.parts.get("golden") else "validation"
        limit = self.config.eval.golden_rows if split == "golden" else self.config.eval.samples
        found = (example.record for example in examples(self.parts.get(split, [])))
        wanted = (one for one in found if not isinstance(one, Text) and (not isinstance(one, Labelled) or one.label))
        chosen = list(islice(wanted, limit))
        if not chosen or self.template is None or self.config.stage.name == "rm":
            return
        questions = [prompt_and_answer(record) for record in chosen]
        tools = [record.tools for record in chosen]
        prompts = [self.template.prompt(messages, t) for (messages, _), t in zip(questions, tools)]
        with self.output.progress(f"answering {split} prompts {when} training", len(prompts)) as bar:
            answers = generate(
                self.model, self.tokenizer, prompts,
                max_new_tokens=self.config.eval.max_new_tokens, batch_size=self.config.eval.batch_size,
                stop=self.stop, advance=bar.advance,
            )  # fmt: skip
        expected = [answer for _, answer in questions]
        if split == "golden":
            measures.values["golden exact match"] = exact_match(answers, expected)
            measures.values["golden prompts"] = len(prompts)
        measures.samples = [
            {"prompt": messages[-1]["content"], "expected": answer, "answer": text}
            for (messages, answer), text in list(zip(questions, answers))[: self.config.eval.samples]
        ]

    def _save_final(self) -> None:
        """The adapter or model with tokenizer, chat template and stop tokens; ``final`` points at the last phase's."""
        from ftlab.model.roles import has_adapter

        final = self.folder / "final"
        writing = self.folder / ".final.tmp"
        # A trainer may have put a reference's adapter beside the policy's.
        policy_alone = {"selected_adapters": ["default"]} if has_adapter(self.model) else {}
        self.model.save_pretrained(writing, **policy_alone)
        self.tokenizer.save_pretrained(writing)
        generation = self.model.generation_config
        generation.eos_token_id, generation.pad_token_id = self.stop, self.tokenizer.pad_token_id
        generation.save_pretrained(writing)
        if final.exists():  # of an earlier attempt that was stopped before it was measured
            shutil.rmtree(final)
        writing.replace(final)
        link = self.run_dir.path / ".final.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(final.relative_to(self.run_dir.path))
        link.replace(self.run_dir.final)

    def _finish(self, trainer: Any, kept: int, before: Measures, after: Measures) -> None:
        final = self.folder / "final"
        result = {
            "steps": trainer.state.global_step,
            "weights_of_step": kept,
            "tokens": trainer.state.num_input_tokens_seen,
            "parameters": vars(self.parameters),
            "before": before.values,
            "after": after.values,
            "sha256": {p.name: sha256(p) for p in sorted(final.iterdir()) if p.suffix == ".safetensors"},
        }
        self.run_dir.update_manifest(phases={**self.run_dir.manifest().get("phases", {}), self.phase.name: result})


def _restore(trainer: Any, checkpoint: Path) -> None:
    """The state after the last step. transformers' own loop would take one step more before it looks."""
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def _total_steps(trainer: Any) -> int:
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    return trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
