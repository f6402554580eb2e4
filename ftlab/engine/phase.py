"""One phase of a run in this process: from its records to its final weights, measured before and after."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from ftlab.base.heap import keep_freed_memory, leave_imports_uncollected
from ftlab.base.libraries import import_bitsandbytes
from ftlab.data.prepare import Prepared, prepare, split_parts
from ftlab.data.prompts import prompt_rows
from ftlab.data.row_origins import row_locations
from ftlab.data.sources import resolve
from ftlab.distributed.deepspeed import prepare_environment
from ftlab.distributed.sharding import sharding_of
from ftlab.engine import resume_point, summary
from ftlab.engine.compiling import check_compiled, tell_compiled
from ftlab.engine.final_weights import link_final, save_final
from ftlab.engine.fingerprints import check_saved, weight_sums
from ftlab.engine.kernels import check_kernels, choose_kernels
from ftlab.engine.model_card import write_model_card
from ftlab.engine.packing import choose_isolation
from ftlab.engine.questions import check_room, has_golden_answers
from ftlab.engine.session import Session
from ftlab.engine.shared_prompts import share_prompts
from ftlab.errors import NotReadyError, RunDirError
from ftlab.policy import lineage
from ftlab.preflight.choices import chosen_line
from ftlab.preflight.directory import check_same_data, continuing_line
from ftlab.preflight.fit import forecast
from ftlab.preflight.remarks import remarks
from ftlab.rundir.checkpoints import step_of
from ftlab.rundir.files import weight_hashes
from ftlab.rundir.memory_notes import leave_note, taken_notes
from ftlab.rundir.plan import Phase
from ftlab.rundir.sources import changed_weights
from ftlab.schema import Data
from ftlab.stages import trainer_class
from ftlab.stages.trainer.batch_sizes import BatchSizes, initial_sizes
from ftlab.stages.trainer.out_of_memory import told_in_words


class PhaseRun:
    """One phase in this process.

    :param checkpoint: the step of the checkpoint that it goes on from; None: the newest that is whole, if there is one.
    :ivar config: the phase's config, with the model that it starts from. :ivar files: where the phase's files are.
    :ivar tokens: the tokenizer and the template, once loaded; :ivar model: the model, once loaded.
    :ivar isolation: how packed samples are kept apart.
    """

    def __init__(self, session: Session, phase: Phase, checkpoint: int | None):
        self.session, self.phase, self._wanted = session, phase, checkpoint
        self.run_dir, self.output = session.run_dir, session.output
        self.files = session.run_dir.phase_files(phase.folder)
        self.config = lineage.starting_config(session.run_dir, session.plan, phase)
        self._look_at = summary.look_at(session.run_dir, session.plan, phase)
        self.sharding = sharding_of(self.config)

    def run(self) -> None:
        """:raises OutOfMemoryError: where ``train.on_oom`` cannot help or is not to."""
        with told_in_words(self.config):
            self._run()

    def _run(self) -> None:
        self.session.interruption.check()
        data = self._data()
        sources = resolve.resolve(data, self.config.stage.name)
        check_same_data(self.run_dir, self.phase.name, sources)
        self._check_same_source()
        check_kernels(self.session.manifest, self.phase.name, self.config)
        self._load_tokenizer()
        self.parts = split_parts(sources, data, self.config.seed, self.output.progress)
        check_room(self.config, self.parts, self.tokens)
        prepared = self._prepare(sources, data)
        self.session.once(lambda: summary.ledger(self.session, self.phase.name, prepared))
        self.session.interruption.check()
        with self.output.console.status("loading the model"):
            self._load_model()
        self.session.hooks.model_loaded(self)
        records = (self.output, self.session.manifest, self.phase.name)
        given = (*records, self.config, self.model, self.tokenizer.pad_token_id, prepared)
        self.isolation = choose_isolation(*given, self.session.ranks.world)
        choose_kernels(*given, self.session.ranks.world, self.isolation)
        share_prompts(*given, self.isolation)
        self._use_fp8()
        check_compiled(self.session, self.config, self.model, self.isolation)
        if self.isolation == "one_per_row" and not self.sharding.is_whole:
            raise NotReadyError(
                f"{self.config.model.name} keeps packed samples apart in one call of the model for each, and where "
                "weights are sharded all processes must call it equally often. Use data.packing=false where a row is "
                "one sample, or hardware.fsdp=false and deepspeed=z2 at most."
            )
        self._train(prepared)

    def _data(self) -> Data:
        """Where the rows come from; several processes find what one of them has prepared."""
        data = self.config.data
        is_alone = self.session.ranks.world.size == 1
        return data if is_alone or data.cache else data.model_copy(update={"cache": str(self.run_dir.prepared)})

    def _prepare(self, sources: list[resolve.Source], data: Data) -> Prepared:
        def work() -> Prepared:
            return prepare(
                sources, self.parts, data, self.config.seed, self.tokens.template, self.tokenizer, self.output.progress
            )

        if self.session.ranks.world.size == 1:
            return work()
        prepared: list[Prepared] = []
        self.session.once(lambda: prepared.append(work()))
        return prepared[0] if prepared else work()

    def _check_same_source(self) -> None:
        """Nor may the weights have changed that the phase before it ended with."""
        source = next((one for one in self.session.plan.phases if one.name == self.phase.source), None)
        result = self.session.manifest.phases.get(self.phase.source) if self.phase.source else None
        if source is not None and result is not None:
            for line in changed_weights(self.run_dir, source, result):
                raise RunDirError(f"{line}, and phase {self.phase.name} starts from it. Put a copy back to continue.")

    def _load_tokenizer(self) -> None:
        from ftlab.model import remote_code
        from ftlab.policy.tokens import load_tokens

        for remark in filter(None, [chosen_line(self.phase), *remarks(self.config)]):
            self.output.say(escape(remark))
        memory, is_warning = forecast(self.config)
        self.output.say(f"[yellow]{escape(memory)}[/yellow]" if is_warning else escape(memory))
        if line := remote_code.notice(self.config.model):
            self.output.say(escape(line))
        self.tokens = load_tokens(self.config)
        self.tokenizer = self.tokens.tokenizer
        if self.tokens.warning is not None:
            self.output.say(f"[yellow]{escape(self.tokens.warning)}[/yellow]")

    def _load_model(self) -> None:
        from ftlab.model import adapter
        from ftlab.model import tokenizer as tokenizers
        from ftlab.model.experts import describe_experts
        from ftlab.model.fp8 import check_fp8
        from ftlab.model.load import uses_cpu
        from ftlab.policy.build import build_model

        # accelerate imports it wherever it is installed, and it tells of a device that it misses.
        prepare_environment(uses_cpu(self.config))
        import_bitsandbytes()
        trainer_class(self.config)  # the last of what is imported, and no run's own
        leave_imports_uncollected()
        if uses_cpu(self.config):
            keep_freed_memory()
        check_fp8(self.config)
        self.model, added = build_model(self.config, self.tokens, self.session.load_base)
        additions = str(self.tokens.additions)
        if additions:
            self.output.say(escape(f"tokenizer: {additions}" + (f"; {added} embeddings added" if added else "")))
        if line := tokenizers.added_rows_notice(self.tokenizer, added, self.tokens.additions, self.config.method):
            self.output.say(escape(line))
        self.parameters = adapter.count_parameters(self.model)
        self.output.say(f"{self.config.model.name}: {self.parameters}")
        for line in describe_experts(self.model, self.config, self.parameters.total):
            self.output.say(escape(line))

    def _use_fp8(self) -> None:
        """From here on: whether samples see each other was asked of exact products."""
        if self.config.train.fp8 == "none":
            return
        from ftlab.model.fp8 import convert_linears

        found = convert_linears(self.model, self.config)
        self.session.manifest.record_item("fp8", self.phase.name, found.as_dict())
        self.output.say(escape(str(found)))

    def _train(self, prepared: Any) -> None:
        from transformers import set_seed

        from ftlab.engine import stopping
        from ftlab.engine.between_steps import BetweenSteps
        from ftlab.engine.control import Control
        from ftlab.engine.handshake import Handshake
        from ftlab.engine.measuring import Measuring, kept_samples
        from ftlab.engine.metrics_log import Advance, Metrics
        from ftlab.engine.pilot import FirstRewards
        from ftlab.engine.trackers.rates import make_rates
        from ftlab.engine.watchdog import Watchdog
        from ftlab.model.load import uses_cpu
        from ftlab.model.whole_weights import whole_weights
        from ftlab.stages.trainer.halving import HalvingTrainer

        session, train = self.session, self.config.train
        session.ranks.begin_group(uses_cpu(self.config))
        checkpoint = session.once(self._checkpoint)
        step = step_of(checkpoint) if checkpoint else 0
        is_measured = session.once(lambda: kept_samples(session, self.phase.name, "before")) is not None
        rates = make_rates(self.config, self.model, self.parameters, prepared.train)
        steps_before = session.steps_before()
        metrics = Metrics(session, self.phase.name, rates, checkpoint is not None)
        between_steps = BetweenSteps(session, rates, Control(session, self.phase.name, self.config))
        trainer = self._trainer(prepared, [between_steps, rates, metrics])
        between_steps.background = trainer.background
        total = _total_steps(trainer)
        with self.output.console.status("wrapping the model"):  # DeepSpeed compiles for a minute, once, on a CPU
            trainer.wrap(total)
        session.once(
            lambda: resume_point.cut_back(self.run_dir, self.phase.name, checkpoint, is_measured, total, self.output)
        )
        self._tell_warmup(total)
        measuring = Measuring(session, self.phase.name, self.config, self.tokens, self.parts, metrics)
        splits = {
            "golden": has_golden_answers(self.config, self.parts, self.tokens),
            "validation": prepared.validation is not None,
        }
        chooses = stopping.callbacks(train, self.files, splits, self.output.say)
        # Answers are given before they are compared.
        looks = [FirstRewards(session, self.config.pilot.is_on)] if self.config.stage.name in ("ppo", "grpo") else []
        for callback in (*measuring.between(trainer, rates), *chooses, *looks):
            trainer.add_callback(callback)
        self.output.say(
            f"[dim]continue any time with: ftlab resume {escape(shlex.quote(str(self.run_dir.path)))}[/dim]"
        )
        if isinstance(trainer, HalvingTrainer) and step < total and (tried := trainer.try_longest_batch(step)):
            self.output.note(f"tried before all else: the longest micro-batch, {tried}")
        trainer.begin(self.output.progress)
        session.trackers.open()
        session.trackers.ledger(self.phase.name, steps_before)
        before = measuring.before(trainer)
        stopping.check_measured(train, trainer.state.log_history, before.values)
        session.hooks.trainer_built(self, trainer)
        session.interruption.check()
        if session.ranks.world.size > 1:
            trainer.add_callback(Handshake(self.config, session.ranks, trainer, self.output))
            if (minutes := self.config.hardware.hang_minutes) is not None:
                trainer.add_callback(Watchdog(self.run_dir, session.ranks, 60 * minutes))
        begun = weight_sums(self.model, self.sharding)
        with self.output.progress("training", total, "steps") as bar:
            trainer.add_callback(Advance(self.output, bar, rates))
            if checkpoint is not None and (step >= total or stopping.has_stopped_early(checkpoint, train)):
                resume_point.restore(trainer, checkpoint)
            else:
                # What was computed before, and what was found in a cache, leaves no trace in the random state.
                set_seed(self.config.seed)
                try:
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                finally:
                    trainer.background.settle()  # whoever is next in the run directory must find nobody at work
        session.interruption.check()
        kept = stopping.load_best(trainer, train, self.files, self.output.say)
        state = whole_weights(self.model, self.sharding)
        session.once(lambda: self._save_final(begun, state))
        after = measuring.after(trainer, kept)
        self._record(trainer, kept, before.values, after.values)

    def _checkpoint(self) -> Path | None:
        """Where it goes on, told to the user."""
        folder = self.files.folder
        if self._wanted is None:
            checkpoint = resume_point.newest_whole_checkpoint(folder, self.config.stage.name, self.output)
        else:
            checkpoint = resume_point.chosen_checkpoint(folder, self._wanted, self.config.stage.name, self.output)
        if checkpoint is not None:
            self.output.say(escape(continuing_line(checkpoint)))
        return checkpoint

    def _trainer(self, prepared: Any, beside: list[Any]) -> Any:
        from ftlab.stages.trainer.halving import HalvingTrainer

        rows: tuple[Any, Any] = (prepared.train, prepared.validation)
        more: tuple[Any, ...] = (self.isolation,)
        if self.config.stage.name in ("ppo", "grpo"):
            held = prepared.validation
            validation = None if held is None else prompt_rows(self.parts["validation"], held)
            rows = (prompt_rows(self.parts["train"], prepared.train), validation)
            more = ()  # what they train on is generated, one answer to a row
        trainer = trainer_class(self.config)(self.config, self.model, self.tokenizer, *rows, self.files, beside, *more)
        if self.config.train.save_steps == "epoch":
            trainer.args.save_steps = _training_values(trainer)[1]
        if self.config.train.compile != "none":
            tell_compiled(self.session, self.phase.name, trainer)
        trainer.watch(self.config.train.loss_spike, self._names(trainer, rows[0]), self.output.note, self._look_at)
        if isinstance(trainer, HalvingTrainer):
            tell = lambda line: self.output.say(f"[yellow]{escape(line)}[/yellow]")  # noqa: E731
            trainer.keep_within_memory(self._batch_sizes(), tell, self._leave_note)
        for chatter in ("PrinterCallback", "ProgressCallback"):
            for callback in [c for c in trainer.callback_handler.callbacks if type(c).__name__ == chatter]:
                trainer.remove_callback(callback)
        return trainer

    def _batch_sizes(self) -> BatchSizes:
        """What earlier starts of the phase came to, and where it is remembered."""
        manifest, name = self.session.manifest, self.phase.name
        record = lambda changes: manifest.record_item("batch_sizes", name, changes)  # noqa: E731

        def known() -> list[dict[str, int]]:
            sizes = BatchSizes(initial_sizes(self.config), manifest.values.get("batch_sizes", {}).get(name, []), record)
            with taken_notes(self.run_dir, name) as changes:
                sizes.add(changes)
            return sizes.changes

        return BatchSizes(initial_sizes(self.config), self.session.once(known), record)

    def _leave_note(self, change: dict[str, int]) -> None:
        """For the first process of the next start, which alone writes what all remember."""
        leave_note(self.run_dir, self.session.ranks.world.rank, self.phase.name, change)

    def _tell_warmup(self, total: int) -> None:
        """That no step has the learning rate that was asked for: the first step of a warm-up has none at all."""
        train = self.config.train
        if train.lr_scheduler != "constant" and train.warmup_count(total) >= total:
            line = f"all {total} steps are warm-up, so none has train.learning_rate={train.learning_rate:g} and the "
            self.output.say(f"[yellow]{line}first trains at 0; train.warmup_steps=0 does without[/yellow]")

    def _names(self, trainer: Any, rows: Any) -> Callable[[Sequence[int]], list[str]]:
        """What a user calls some of the rows that train."""
        from ftlab.data.packing.store import Rows

        if not isinstance(rows, Rows):
            return lambda indices: [rows[index].where for index in indices]
        of_stage = trainer.train_dataset if isinstance(trainer.train_dataset, Rows) else rows
        return lambda indices: row_locations(self.parts["train"], of_stage, indices)

    def _save_final(self, begun: dict[str, int], state: dict[str, Any] | None) -> None:
        """:param begun: the sums of the weights before the first step of this start. :param state: the whole weights,
        where they are sharded."""
        final = self.files.final
        kept = save_final(self.model, self.tokenizer, self.tokens.stop, final, state)
        if kept is not None:
            self.output.say(f"[yellow]{escape(f'{final} held other weights; moved to {kept}')}[/yellow]")
        if line := check_saved(final, self.model, begun, self.sharding):
            self.output.say(f"[yellow]{line}[/yellow]")
        phases = self.session.plan.phases
        later = phases[phases.index(self.phase) + 1 :]
        # A later phase that is finished was trained first, by itself, and the run's final weights are its own.
        if not any(self.run_dir.phase_files(phase.folder).final.exists() for phase in later):
            kept = link_final(self.run_dir, final)
            if kept is not None:
                self.output.say(
                    f"[yellow]{escape(f'{self.run_dir.final} was a folder of other weights; moved to {kept}')}[/yellow]"
                )
        self.session.hooks.final_saved(self)

    def _record(self, trainer: Any, kept: int, before: dict[str, float], after: dict[str, float]) -> None:
        result = {
            "steps": trainer.state.global_step,
            "weights_of_step": kept,
            "tokens": trainer.state.num_input_tokens_seen,
            "parameters": vars(self.parameters),
            "before": before,
            "after": after,
            "sha256": weight_hashes(self.files.final),
        }
        self.session.once(lambda: write_model_card(self.session, self.phase, result, self.files.final))
        self.session.manifest.record_item("phases", self.phase.name, result)


def _total_steps(trainer: Any) -> int:
    if trainer.args.max_steps > 0:
        return int(trainer.args.max_steps)
    return _training_values(trainer)[-1]


def _training_values(trainer: Any) -> Any:
    """As transformers has them: epochs, steps of an epoch, ..., steps in all."""
    return trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
