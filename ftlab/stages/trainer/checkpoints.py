"""Checkpoints that count only once a manifest of hashes is in place, on disks that have room for them. What they hold
is copied at the step; they are written beside those that follow."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME, TRAINING_ARGS_NAME

from ftlab.base.machine import has_memory_limit, spare_memory
from ftlab.distributed.sharding import uses_deepspeed
from ftlab.errors import RunDirError
from ftlab.model.guests import has_adapter
from ftlab.model.whole_weights import (
    load_whole_adapter,
    load_whole_model,
    save_weights,
    weights_to_save,
    whole_weights,
)
from ftlab.rundir.checkpoints import checkpoints, seal
from ftlab.rundir.files import size
from ftlab.rundir.names import METRICS
from ftlab.stages.trainer.checkpoint_content import Content, random_states, write_files
from ftlab.stages.trainer.evaluation import EvaluatingTrainer
from ftlab.stages.trainer.optimizers import set_loraplus_rates

_SPARE = 16 << 20  # bytes that a disk keeps free beside a checkpoint: metrics, the log, the manifest
_SPARE_MEMORY = 256 << 20  # bytes of main memory that are left beside a copy of what a checkpoint holds
_RANDOM_STATE = "rng_state.pth"  # transformers' name, where one process trains


class WholeCheckpoints(EvaluatingTrainer):
    """Older checkpoints are removed only after a new one is whole, the best one excepted. The optimizer has LoRA+'s
    learning rates where the run asks for them.

    One process alone goes on training while a checkpoint is written. Several wait for each other: what is sharded they
    gather together.

    :ivar background: where a checkpoint is being written. Who reads checkpoints waits for it.
    """

    _texts: dict[str, bytes] | None = None  # of files that are the same in every checkpoint
    _has_told = False  # that there is no memory for a copy

    def create_optimizer(self, model: Any = None) -> Any:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        ratio = self.args.loraplus_ratio
        if is_new and ratio is not None:
            set_loraplus_rates(optimizer, self.model if model is None else model, ratio)
        return optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """:raises RunDirError: the disk is full, as it was told by who wrote the checkpoint before; those from before
        are as they were."""
        self.background.wait()
        own = self.files.checkpoint(self.state.global_step)
        if not self._is_alone:
            self._save_together(own, model, trial)
            return
        with _whole_or_gone(own):
            content = self._content(own)
            is_beside = not self.control.should_training_stop and self._has_memory_for(content)
            write = self._writing(own, content.copied() if is_beside else content)
        if is_beside:
            self.background.start(write)
        else:
            write()

    @property
    def _is_alone(self) -> bool:
        """Whether this process has all that a checkpoint holds, and its random state is that of processors and CUDA."""
        return self.world.size == 1 and self.sharding.wrapper is None and self.args.device.type in ("cpu", "cuda")

    def _writing(self, own: Path, content: Content) -> Callable[[], None]:
        """What writes the checkpoint, and removes those that it takes the place of."""
        limit, best, model = self.args.save_total_limit, self.state.best_model_checkpoint, self.model

        def write() -> None:
            with _whole_or_gone(own):
                self._check_room(own)
                content.write(own, model)
                seal(own)
            rotate_checkpoints(own.parent, limit, best)

        return write

    def _content(self, own: Path) -> Content:
        """As it is now, which the next step changes."""
        own.parent.mkdir(parents=True, exist_ok=True)
        self.store_flos()
        self.state.stateful_callbacks["TrainerControl"] = self.control.state()
        scaler = self.accelerator.scaler
        metrics = self.files.metrics
        return Content(
            weights_to_save(self.model),
            {
                TRAINING_ARGS_NAME: self.args,
                OPTIMIZER_NAME: self.optimizer.state_dict(),
                SCHEDULER_NAME: self.lr_scheduler.state_dict(),
                **({} if scaler is None else {SCALER_NAME: scaler.state_dict()}),
                _RANDOM_STATE: random_states(),
                **self.own_state(),
            },
            self._same_files(own),
            self.state,
            (metrics, metrics.stat().st_size) if metrics.is_file() else None,
        )

    def _has_memory_for(self, content: Content) -> bool:
        """Whether there is room for a copy beside all that training takes at its most. Where the shell limits memory, a
        step might fail for want of it, and be taken in smaller parts."""
        if not has_memory_limit() and spare_memory() >= content.nbytes + _SPARE_MEMORY:
            return True
        if not self._has_told:
            size = f"{content.nbytes / 1e6:,.0f} MB"
            self._note(f"training waits while checkpoints are written: there is no memory for a copy of {size}")
            self._has_told = True
        return False

    def _save_together(self, own: Path, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with _whole_or_gone(own):
                own.parent.mkdir(parents=True, exist_ok=True)
                self._check_room(own)
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()  # each process has its random state written
                if self.args.should_save:
                    if self.files.metrics.is_file():  # from which what is lost of it can be restored
                        shutil.copyfile(self.files.metrics, own / METRICS)
                    seal(own)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(own.parent, limit, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """What one of several processes saves of the weights, and what goes with them."""
        assert output_dir is not None
        folder = Path(output_dir)
        save_weights(self.model, weights_to_save(self.model, state_dict), folder)
        write_files(self._same_files(folder), folder)
        torch.save(self.args, folder / TRAINING_ARGS_NAME)

    def _same_files(self, folder: Path) -> dict[str, bytes]:
        """Of the tokenizer, which takes its time to write them. Each checkpoint has a copy: a link would have them all
        damaged with one."""
        if self._texts is None:
            tokenizer: Any = self.processing_class
            folder.mkdir(exist_ok=True)
            with TemporaryDirectory(dir=folder) as written:  # other processes may be writing theirs beside it
                tokenizer.save_pretrained(written)
                paths = [path for path in Path(written).rglob("*") if path.is_file()]
                self._texts = {str(path.relative_to(written)): path.read_bytes() for path in paths}
        return self._texts

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **more: Any) -> None:
        self.background.check()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **more)

    def _finalize_training(self, *args: Any, **more: Any) -> Any:
        self.background.wait()  # transformers looks at the checkpoints
        return super()._finalize_training(*args, **more)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers passes over what it finds no place for.

        :raises RunDirError: the weights in the checkpoint are not all of the model's, or it has others.
        """
        target: Any = self.model if model is None else model
        if self.sharding.wraps_early and not self.sharding.is_in_place:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif has_adapter(target):
            load_whole_adapter(target, Path(resume_from_checkpoint), self.sharding)
        else:
            load_whole_model(target, Path(resume_from_checkpoint), self.sharding)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """transformers asks the first process alone, and sharded weights all of them; of a wrapper around more than the
        model it would save all that."""
        state = whole_weights(self.model, self.sharding)
        if self.args.should_save:
            self._save(output_dir, state)

    def _check_room(self, own: Path) -> None:
        """:raises RunDirError: there is none for what the checkpoint will take."""
        before = next((path for path in checkpoints(own.parent) if path != own), None)
        needed = size(before) if before is not None else self._estimated_size()
        free = shutil.disk_usage(own.parent).free
        if free < needed + _SPARE:
            raise RunDirError(f"a checkpoint takes about {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")

    def _estimated_size(self) -> int:
        """Bytes of what trains, and of an optimizer with two states of each parameter in fp32. DeepSpeed has the
        weights a second time, and their copy in fp32."""
        trained = [parameter for parameter in self.trained_modules.parameters() if parameter.requires_grad]
        each = 12 + trained[0].element_size() if uses_deepspeed(self.run) else 8
        return sum(self.sharding.elements(p) * (p.element_size() + each) for p in trained)


@contextmanager
def _whole_or_gone(own: Path) -> Iterator[None]:
    """:raises RunDirError: there is no room for the checkpoint that is written within; nothing is left of it."""
    try:
        yield
    except Exception as error:
        # PyTorch and safetensors each have an error of their own for a disk that is full.
        if shutil.disk_usage(own.parent).free >= _SPARE and not isinstance(error, RunDirError):
            raise
        shutil.rmtree(own, ignore_errors=True)
        raise RunDirError(_disk_full_message(own.parent, own, str(error))) from None


def rotate_checkpoints(folder: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest until ``limit`` are left; never the newest, nor the best. None keeps all.

    transformers' own would take a folder that somebody named ``checkpoint-20-good`` for one of its checkpoints.
    """
    found = checkpoints(folder)
    kept = {path for path in found if path == found[0] or (best is not None and path == Path(best))}
    removable = [path for path in reversed(found) if path not in kept]
    excess = 0 if limit is None else len(found) - max(limit, len(kept))
    for path in removable[: max(excess, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def _disk_full_message(folder: Path, part: Path, reason: str) -> str:
    whole = [path for path in checkpoints(folder) if path != part]
    last = f"The last good checkpoint is {whole[0]}" if whole else "There is no earlier checkpoint"
    return (
        f"The disk of {folder} is full: {part.name} could not be written ({reason}). {last}. Free some space, or keep "
        "fewer checkpoints with train.save_total_limit, and start the same command again."
    )
