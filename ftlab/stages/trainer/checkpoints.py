"""Checkpoints that count only once a manifest of hashes is in place, on disks that have room for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ftlab.distributed.sharding import uses_deepspeed
from ftlab.errors import RunDirError
from ftlab.model.guests import has_adapter
from ftlab.model.whole_weights import load_whole_adapter, load_whole_model, whole_weights
from ftlab.rundir.checkpoints import checkpoints, seal
from ftlab.rundir.files import size
from ftlab.rundir.names import METRICS
from ftlab.stages.trainer.evaluation import EvaluatingTrainer
from ftlab.stages.trainer.optimizers import set_loraplus_rates

_SPARE = 16 << 20  # bytes that a disk keeps free beside a checkpoint: metrics, the log, the manifest


class WholeCheckpoints(EvaluatingTrainer):
    """Older checkpoints are removed only after a new one is whole, the best one excepted. The optimizer has LoRA+'s
    learning rates where the run asks for them."""

    def create_optimizer(self, model: Any = None) -> Any:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        ratio = self.args.loraplus_ratio
        if is_new and ratio is not None:
            set_loraplus_rates(optimizer, self.model if model is None else model, ratio)
        return optimizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """:raises RunDirError: the disk is full; the checkpoints from before are as they were."""
        folder = self.files.folder
        own = self.files.checkpoint(self.state.global_step)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            self._check_room(folder)
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process has its random state written
            if self.args.should_save:
                if self.files.metrics.is_file():  # from which what is lost of it can be restored
                    shutil.copyfile(self.files.metrics, own / METRICS)
                seal(own)
        except Exception as error:
            # PyTorch and safetensors each have an error of their own for a disk that is full.
            if shutil.disk_usage(folder).free >= _SPARE and not isinstance(error, RunDirError):
                raise
            shutil.rmtree(own, ignore_errors=True)
            raise RunDirError(_disk_full_message(folder, own, str(error))) from None
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(folder, limit, self.state.best_model_checkpoint)

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

    def _check_room(self, folder: Path) -> None:
        """:raises RunDirError: there is none for what the checkpoint will take."""
        folder.mkdir(parents=True, exist_ok=True)
        before = next(iter(checkpoints(folder)), None)
        needed = size(before) if before is not None else self._estimated_size()
        free = shutil.disk_usage(folder).free
        if free < needed + _SPARE:
            raise RunDirError(f"a checkpoint takes about {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")

    def _estimated_size(self) -> int:
        """Bytes of what trains, and of an optimizer with two states of each parameter in fp32. DeepSpeed has the
        weights a second time, and their copy in fp32."""
        trained = [parameter for parameter in self.trained_modules.parameters() if parameter.requires_grad]
        each = 12 + trained[0].element_size() if uses_deepspeed(self.run) else 8
        return sum(self.sharding.elements(p) * (p.element_size() + each) for p in trained)


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
