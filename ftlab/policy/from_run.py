"""From a run directory to the policy that the run has trained: for whatever works with a finished run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.base.heap import leave_imports_uncollected
from ftlab.base.libraries import import_bitsandbytes
from ftlab.data.tokens.templates import Template
from ftlab.errors import RunDirError
from ftlab.model.remote_code import untrusted
from ftlab.policy.build import build_model
from ftlab.policy.lineage import config_with_weights
from ftlab.policy.tokens import Tokens, load_tokens
from ftlab.rundir.directory import RunDir
from ftlab.rundir.plan import WEIGHTS
from ftlab.rundir.sources import Weights, policy_of_run, weights_of_run
from ftlab.schema import Run


@dataclass(frozen=True)
class TrainedPolicy:
    """What a run has trained.

    :param config: of the phase that trained it last, with the weights that it ended with.
    :param model: in evaluation mode, on its device, and nothing of it trains. :param tokenizer: as the run used it.
    :param template: of conversations; None after ``stage=pt``. :param stop: ids at which an answer ends.
    """

    config: Run
    model: Any
    tokenizer: Any
    template: Template | None
    stop: list[int]

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of training: products in the precision that the run has, adapters in fp32."""
        import torch

        from ftlab.model.load import compute_dtype

        dtype = compute_dtype(self.config)
        return torch.autocast(self.model.device.type, dtype, enabled=dtype != torch.float32)


@dataclass(frozen=True)
class Policy:
    """A run's weights that are not loaded yet, and the config that loads them."""

    run_dir: RunDir
    weights: Weights
    config: Run

    @property
    def base(self) -> Policy:
        """What the phase's first ancestor started from: the model as the run's first phase was given it, read with this
        one's template."""
        plan = self.run_dir.plan()
        first = next((one for one in plan.phases if one.source is None), plan.phases[0]).config
        model = self.config.model.model_copy(update={name: getattr(first.model, name) for name in WEIGHTS})
        lora = self.config.lora.model_copy(update={"variant": "lora"})  # one that changes nothing, whatever the run's
        return Policy(self.run_dir, self.weights, self.config.model_copy(update={"model": model, "lora": lora}))

    def tokens(self) -> Tokens:
        """:raises NotReadyError: its tokenizer or template is not there."""
        return load_tokens(self.config)

    def load(self, tokens: Tokens, load: Callable[[Run], Any] | None = None) -> TrainedPolicy:
        """:param load: gives the base; None: a base of its own.

        :raises NotReadyError: the base is not there, or the adapter is one of another model.
        """
        import torch

        from ftlab.distributed.deepspeed import prepare_environment
        from ftlab.model.load import load_model, uses_cpu

        prepare_environment(uses_cpu(self.config))  # accelerate imports it wherever it is installed
        import_bitsandbytes()
        leave_imports_uncollected()
        model, _ = build_model(self.config, tokens, load or load_model)
        if not uses_cpu(self.config) and not getattr(model, "is_quantized", False):
            model.to(torch.accelerator.current_accelerator())
        model.eval().requires_grad_(False)
        return TrainedPolicy(self.config, model, tokens.tokenizer, tokens.template, tokens.stop)


def find_policy(
    folder: Path, phase: str | None = None, step: int | None = None, change: Callable[[Run], Run] = lambda run: run
) -> Policy:
    """What a run has trained, final or a checkpoint, whatever state the run is in.

    :param folder: the run directory. :param phase, step: as of :func:`ftlab.rundir.sources.weights_of_run`.
    :param change: makes of the run's config the one that is loaded.
    :raises RunDirError: there is no run, or it has no weights. :raises ConfigError: there is no such phase.
    """
    weights = weights_of_run(folder, phase, step)
    run_dir = RunDir.open(folder)
    config = untrusted(config_with_weights(run_dir, run_dir.plan(), weights.phase, weights.folder))
    return Policy(run_dir, weights, _in_one_process(change(config)))


def load_policy(folder: Path) -> TrainedPolicy:
    """Load the policy that the last phase of a run has trained, with the template and stop tokens of its training.

    :param folder: the run directory.
    :raises RunDirError: there is no run, it has not finished training, or it trained a reward model.
    """
    try:
        phase = policy_of_run(folder)
    except RunDirError as error:
        raise RunDirError(f"{folder} {error}.") from None
    policy = find_policy(folder, phase.name)
    return policy.load(policy.tokens())


def _in_one_process(config: Run) -> Run:
    """The same without what shares a training out, or saves memory in its backward pass."""
    alone = {
        "hardware": config.hardware.model_copy(update={"fsdp": False}),
        "train": config.train.model_copy(update={"gradient_checkpointing": False}),
    }
    return config.model_copy(update=alone)
