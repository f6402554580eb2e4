"""When a wrapper for several devices gets the model, and where its weights are from then on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import Trainer
from transformers.integrations.deepspeed import (
    deepspeed_load_checkpoint,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from ftlab.distributed.sharding import Sharding, sharding_of
from ftlab.model.guests import has_adapter
from ftlab.model.load import compute_dtype
from ftlab.model.modules import bare_model, is_bare
from ftlab.schema import Run


class DirectAccelerator(Accelerator):
    """An accelerator that takes a model out of its wrapper in microseconds: :func:`ftlab.model.modules.bare_model`."""

    def unwrap_model(self, model: Any, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True) -> Any:
        if keep_fp32_wrapper and (keep_torch_compile or is_bare(model)):
            return bare_model(model)
        return super().unwrap_model(model, keep_fp32_wrapper, keep_torch_compile)


class WrappedTrainer(Trainer):
    """transformers wraps the model when its loop begins. A wrapper that puts the weights where they are computed with
    has to have it before: for the measures before training, and for a reference.

    :ivar run: its config.
    """

    run: Run
    model: Any
    _early: dict[str, Any] | None = None  # what accelerate knows of the wrapper

    @property
    def sharding(self) -> Sharding:
        return sharding_of(self.run)

    def create_accelerator_and_postprocess(self) -> None:
        """transformers names the class of its accelerator, and asks it for the bare model as soon as it is made."""
        super().create_accelerator_and_postprocess()
        self.accelerator.__class__ = DirectAccelerator

    @property
    def trained_modules(self) -> Any:
        """A module with every weight that trains, of which all processes must have the same."""
        return self.model

    def place_early(self) -> None:
        """Have the model where its wrapper will have it, and in that precision, for what is made of it before."""
        if self.sharding.wraps_early and self.sharding.is_whole:
            self.sharding.cast(self.model, compute_dtype(self.run))
            self._move_model_to_device(self.model, self.args.device)

    def wrap(self, steps: int) -> None:
        """Hand the model over now, where the wrapper wants it early. :param steps: of the whole training."""
        if not self.sharding.wraps_early or self.sharding.is_in_place:
            return
        config = self.accelerator.state.deepspeed_plugin.deepspeed_config
        model = self.model
        self.model = self.model_wrapped = self.trained_modules  # transformers hands over what it finds there
        with redirect_stdout(io.StringIO()):  # it prints what it has compiled
            self.sharding.shard(self.model, config, compute_dtype(self.run), self.args.device)
            super()._prepare_for_training(steps, None, None)
        self.model = model
        # The loop begins with taking apart whatever accelerate knows of.
        self._early = {name: getattr(self.accelerator, name) for name in _KEPT_BY_ACCELERATE}
        self.accelerator.deepspeed_engine_wrapped = None

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        if self._early is None:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        for name, value in self._early.items():
            setattr(self.accelerator, name, value)
        if resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(self.callback_handler, name, getattr(self, name))
        self.callback_handler.train_dataloader = train_dataloader
        return self.model_wrapped, train_dataloader

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._early is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # Frozen weights are not in it where there is an adapter.
        deepspeed_load_checkpoint(self.model_wrapped, resume_from_checkpoint, not has_adapter(self.model))

    @contextmanager
    def loading_whole(self) -> Iterator[None]:
        """A model that is loaded within is no part of what trains, and is whole in each process. Where parameters are
        sharded, transformers would shard those of every model that it loads from now on."""
        config = getattr(self.args, "hf_deepspeed_config", None)
        if config is not None:
            unset_hf_deepspeed_config()
        try:
            yield
        finally:
            if config is not None:
                set_hf_deepspeed_config(config)

    def _prepare_input(self, data: Any) -> Any:
        """Under DeepSpeed transformers gives whatever is no whole number the precision of the model, a reference's
        log-probabilities among them; and it waits until the data are there."""
        if isinstance(data, Tensor):
            return data.to(self.args.device, non_blocking=self.args.device.type == "cuda")
        return super()._prepare_input(data)


_KEPT_BY_ACCELERATE = ("deepspeed_engine_wrapped", "_models", "_optimizers")
