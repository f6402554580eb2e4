"""One phase of a run in this process: from its records to its final weights, measured before and after."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftlab.data.prepare import prepare, split_parts
from ftlab.data.prompts import asked
from ftlab.data.row_origins import places
from ftlab.data.sources import resolve
from ftlab.engine import summary
from ftlab.engine.interruption import Interruption
from ftlab.engine.output import Output
from ftlab.engine.trackers.hub import Trackers
from ftlab.errors import RunDirError
from ftlab.policy import lineage
from ftlab.rundir.checkpoints import checkpoints, is_whole, set_aside, step_of
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.rundir.names import CHECKPOINT_MANIFEST, WEIGHT_FILES
from ftlab.rundir.plan import Phase, Plan
from ftlab.stages import trainer_class


class Clock:
    """Seconds of work that went into a run, over all its starts: of those that were killed, up to their last line."""

    def __init__(self, run_dir: RunDir):
        last = run_dir.last_logged()
        self._spent = max(run_dir.manifest().get("seconds", 0), last.get("seconds", 0) if last else 0)
        self._started = time.monotonic()

    def seconds(self) -> float:
        return round(self._spent + time.monotonic() - self._started, 1)


class PhaseRun:
    """One phase in this process.

    :param back_to: the step of the checkpoint that it goes on from; None: the newest that is whole, if there is one.
    """

    def __init__(
        self, run_dir: RunDir, plan: Plan, phase: Phase, output: Output, clock: Clock, interruption: Interruption,
        trackers: Trackers, back_to: int | None,
    ):  # fmt: skip
        self.run_dir, self.phase, self.output, self._clock = run_dir, phase, output, clock
        self._plan, self._back_to = plan, back_to
        self._interruption, self._trackers = interruption, trackers
        self.folder = run_dir.phase(phase.folder)
        self.config = lineage.starting(run_dir, plan, phase)
        self._look_at = summary.look_at(run_dir, plan, phase)

    def run(self) -> None:
        data = self.config.data
        sources = resolve.resolve(data, self.config.stage.name)
        self._check_same_data(sources)
        self._load_tokenizer()
        self.parts = split_parts(sources, data, self.config.seed)
        prepared = prepare(
            sources, self.parts, data, self.config.seed, self.template, self.tokenizer, self.output.progress
        )
        summary.ledger(self.output, self.run_dir, self.phase.name, prepared)
        with self.output.console.status("loading the model"):
            self._load_model()
        self._train(prepared)

    def _check_same_data(self, sources: list[resolve.Source]) -> None:
        """A run that goes on must read what it began with, or its weights belong to no data set at all."""
        for file in resolve.changed_files(sources, self.run_dir.data_files(self.phase.name)):
            raise RunDirError(
                f"{file} has changed since {self.run_dir.path} began. Put the file back to continue, or start "
                "another run: run.if_exists=new, or another run.name."
            )

    def _load_tokenizer(self) -> None:
        from ftlab.policy.tokens import tokens_of

        self.tokens = tokens_of(self.config)
        self.tokenizer, self.template, self.stop = self.tokens.tokenizer, self.tokens.template, self.tokens.stop

    def _load_model(self) -> None:
        from ftlab.model import adapter
        from ftlab.policy.build import model_of

        self.model, added = model_of(self.config, self.tokens)
        additions = str(self.tokens.additions)
        if additions:
            self.output.say(escape(f"tokenizer: {additions}" + (f"; {added} embeddings added" if added else "")))
        self.parameters = adapter.count(self.model)
        self.output.say(f"{self.config.model.name}: {self.parameters}")

    def _train(self, prepared: Any) -> None:
        from transformers import set_seed

        from ftlab.engine import metrics_log, stopping
        from ftlab.engine.measuring import Measuring
        from ftlab.engine.trackers.rates import rates_of
        from ftlab.stages.trainer.stage_trainer import StageTrainer

        checkpoint = self._newest_whole_checkpoint() if self._back_to is None else self._gone_back(self._back_to)
        step = step_of(checkpoint) if checkpoint else 0
        if checkpoint:
            self.output.say(f"continuing from {escape(str(checkpoint))}")
        is_measured = self.run_dir.samples_file(self.phase.name, "before").is_file()
        metrics_log.cut_back(self.run_dir, self.phase.name, checkpoint, is_measured)
        rates = rates_of(self.config, self.model, self.parameters, prepared.train)
        done, train = self._before(), self.config.train
        metrics = metrics_log.Metrics(
            self.run_dir.metrics, self.phase.name, done, self._clock.seconds, self._trackers, rates
        )
        trainer = self._trainer(prepared, [rates, metrics, self._interruption])
        measuring = Measuring(
            self.run_dir, self.phase.name, self.config, self.tokens, self.parts, self.output, self._trackers, metrics,
            done.steps,
        )  # fmt: skip
        splits = {"golden": bool(self.parts.get("golden")), "validation": prepared.validation is not None}
        chooses = stopping.callbacks(train, self.folder, splits, self.output.say)
        for callback in (*measuring.between(trainer, rates), *chooses):  # answers are given before they are compared
            trainer.add_callback(callback)
        self._probe(prepared)
        self.output.say(
            f"[dim]continue any time with: ftlab resume {escape(shlex.quote(str(self.run_dir.path)))}[/dim]"
        )
        if isinstance(trainer, StageTrainer):
            trainer.begin(self.output.progress)
        self._trackers.open()
        self._trackers.ledger(self.phase.name, done.steps)
        before = measuring.before(trainer)
        stopping.check_measured(train, trainer.state.log_history)
        with self.output.progress("training", _total_steps(trainer), "steps") as bar:
            trainer.add_callback(metrics_log.Advance(self.output, bar, rates))
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
        after = measuring.after(trainer, kept)
        self._finish(trainer, kept, before.values, after.values)

    def _before(self) -> Any:
        from ftlab.engine.metrics_log import Before

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
        from ftlab.data.packing.store import Rows

        if not isinstance(rows, Rows):
            return lambda indices: [rows[index].where for index in indices]
        of_stage = trainer.train_dataset if isinstance(trainer.train_dataset, Rows) else rows
        return lambda indices: places(self.parts["train"], of_stage, indices)

    def _probe(self, prepared: Any) -> None:
        from ftlab.data.packing.collate import PackedCollator
        from ftlab.stages.trainer.forward import probe_isolation

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
        """Torn ones are taken out of its way, or they would count among those that are kept."""
        for checkpoint in checkpoints(self.folder):
            if is_whole(checkpoint):
                return checkpoint
            # The trainer's state is written last, and then the manifest: without both, a process ended while it wrote.
            if any((checkpoint / name).exists() for name in (CHECKPOINT_MANIFEST, "trainer_state.json")):
                done = f"moved to {set_aside(checkpoint)}"
            else:
                shutil.rmtree(checkpoint)
                done = "removed"
            said = f"{checkpoint} is torn (a file is missing or changed); passed over and {done}"
            self.output.say(f"[yellow]{escape(said)}[/yellow]")
        return None

    def _gone_back(self, step: int) -> Path:
        """The checkpoint of that step, from which the run goes on; later ones no longer belong to it and are set aside.

        :raises RunDirError: there is none, or it is torn; nothing has changed then.
        """
        there = checkpoints(self.folder)
        wanted = next((checkpoint for checkpoint in there if step_of(checkpoint) == step), None)
        if wanted is None or not is_whole(wanted):
            torn = f" ({wanted} is torn: a file is missing or changed)" if wanted else ""
            have = [str(step_of(checkpoint)) for checkpoint in there if is_whole(checkpoint)]
            raise RunDirError(
                f"run.checkpoint={step}: {self.folder} has no whole checkpoint of that step{torn}. "
                f"It has: {', '.join(have) or 'none'}."
            )
        for checkpoint in there[: there.index(wanted)]:  # newest first: what is left is a run up to there at any moment
            place = set_aside(checkpoint)
            self.output.say(escape(f"{checkpoint} is later than run.checkpoint={step}; moved to {place}"))
        return wanted

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
            if _hashes(final) == _hashes(writing):
                shutil.rmtree(final)
            else:
                kept = set_aside(final)
                self.output.say(f"[yellow]{escape(f'{final} held other weights; moved to {kept}')}[/yellow]")
        writing.replace(final)
        later = self._plan.phases[self._plan.phases.index(self.phase) + 1 :]
        if any((self.run_dir.phase(phase.folder) / "final").exists() for phase in later):
            return  # it was trained first, by itself
        link = self.run_dir.path / ".final.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(final.relative_to(self.run_dir.path))
        link.replace(self.run_dir.final)

    def _finish(self, trainer: Any, kept: int, before: dict[str, float], after: dict[str, float]) -> None:
        result = {
            "steps": trainer.state.global_step,
            "weights_of_step": kept,
            "tokens": trainer.state.num_input_tokens_seen,
            "parameters": vars(self.parameters),
            "before": before,
            "after": after,
            "sha256": _hashes(self.folder / "final"),
        }
        self.run_dir.update_manifest(phases={**self.run_dir.manifest().get("phases", {}), self.phase.name: result})


def _hashes(final: Path) -> dict[str, str]:
    """Of every file of weights."""
    return {path.name: sha256(path) for path in sorted(final.iterdir()) if path.suffix in WEIGHT_FILES}


def _restore(trainer: Any, checkpoint: Path) -> None:
    """The state after the last step. transformers' own loop would take one step more before it looks."""
    from transformers import TrainerState

    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def _total_steps(trainer: Any) -> int:
    if trainer.args.max_steps > 0:
        return trainer.args.max_steps
    return trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]
