"""How fast, and how well the device is used: what a tracker is opened for besides the loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from ftlab.data.packing.store import PackedRow, Rows
from ftlab.distributed.world import current_world
from ftlab.model.adapter import Parameters
from ftlab.model.load import compute_dtype
from ftlab.schema import Run

# FLOP/s of dense matrix products in bf16 with fp32 accumulation, by how the name of a device begins; the first that
# fits counts. From NVIDIA's datasheets of each (H200, H100, A100, L40S, A10; where they quote sparse matrices, half of
# that) and, for the GeForces, appendix A of its Ada and GA102 whitepapers.
_PEAK = (
    ("NVIDIA H200 NVL", 835e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA A100", 312e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA A10G", None),  # another chip than the A10, and no datasheet of NVIDIA's
    ("NVIDIA A10", 125e12),
    ("NVIDIA GeForce RTX 4090", 165.2e12),
    ("NVIDIA GeForce RTX 3090", 71e12),
)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_READ = 64  # rows from whose samples the mean length is taken


def peak(device: str, precision: torch.dtype) -> float | None:
    """Return the peak FLOP/s of a device by its name; None where it is unknown, as in fp32 or on a CPU."""
    if precision not in (torch.bfloat16, torch.float16):
        return None
    return next((flops for name, flops in _PEAK if device.startswith(name)), None)


@dataclass(frozen=True)
class Work:
    """The floating-point work of one token.

    :param total: parameters. :param trained: those of them that train.
    :param attention: layers x heads x size of a head. :param length: of a sample, as a token of it sees it on average.
    """

    total: int
    trained: int
    attention: int
    length: float

    def flops(self) -> float:
        """Of one token: 6 N + 12 L H Q T, as in PaLM (https://arxiv.org/abs/2204.02311, appendix B), where N parameters
        train. Of one that is frozen there is no gradient to compute: forward and backward take 2 each, so

            4 N + 2 N_trained + 12 L H Q T

        T is the mean length of a sample, weighted by tokens, since packed samples do not see each other; of a pair
        whose prompt is computed once, weighted by the tokens that are computed, which are those that count. Activations
        that are computed again are not counted, as the paper says, and neither is a reference model's forward.
        """
        return 4 * self.total + 2 * self.trained + 12 * self.attention * self.length


def mfu(tokens_per_second: float, work: Work, peak_flops: float) -> float:
    """Model FLOPs utilization: the share of the device's peak that the model's own work takes (PaLM, appendix B)."""
    return tokens_per_second * work.flops() / peak_flops


def estimate_work(run: Run, model: Any, parameters: Parameters, rows: Sequence[Any]) -> Work | None:
    """None where a token's work is not known beforehand: tokens that are generated, experts that are chosen, a backward
    that ends at the last frozen layer."""
    config = model.config.get_text_config()
    has_experts = any(getattr(config, name, None) for name in _EXPERTS)
    if run.stage.name in ("ppo", "grpo") or run.method.name == "freeze" or has_experts:
        return None
    length = _mean_length(rows, run.stage.name)
    return None if length is None else Work(parameters.total, parameters.trainable, _attention(config), length)


def _mean_length(rows: Sequence[Any], stage: str) -> float | None:
    """Of a sample, as each token that is computed sees it. A prompt that stands beside two answers is computed with the
    first alone, and is part of what the second attends to. (Which prompts kto has twice is known when it has paired
    its rows; there all count as computed.)"""
    left_out: Callable[[int], Any] = lambda index: 0  # noqa: E731
    if isinstance(rows, Rows) and stage != "kto" and rows.shares_prompts:
        shared, places = rows.shared(), rows.view_indices
        left_out = lambda index: shared[places(index)]  # noqa: E731
    seen = computed = 0
    for index in range(min(len(rows), _READ)):
        if not isinstance(row := rows[index], PackedRow):
            continue
        own = row.lengths - left_out(index)
        seen, computed = seen + int((own * row.lengths).sum()), computed + int(own.sum())
    return seen / computed if computed else None


def _attention(config: Any) -> int:
    """Layers x heads x size of a head, of the layers that attend: state spaces, linear attention and convolutions have
    no term that grows with the length."""
    heads = getattr(config, "num_attention_heads", None)
    if heads is None:
        return 0
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    layers = sum("attention" in kind and kind != "linear_attention" for kind in kinds)
    head: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    return layers * heads * head


class Rates(TrainerCallback):
    """Tokens per second of training since the last log: evaluating and saving are not training.

    :param work: of a token; None leaves MFU out, as does a device whose peak is not known.
    :ivar latest: what goes into the line that is being logged.
    """

    def __init__(self, work: Work | None, precision: torch.dtype):
        self._work, self._precision = work, precision
        self._peak: float | None = None
        self._spent, self._until, self._tokens = 0.0, 0.0, 0
        self._since: float | None = None  # since when a stretch of training lasts; None between two
        self.latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._spent, self._since, self._tokens = 0.0, None, state.num_input_tokens_seen
        name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
        self._peak = peak(name, self._precision)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._until = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.latest = {}
        if "loss" not in logs:
            return
        self._until = time.monotonic()
        self.pause()
        tokens, self._tokens = state.num_input_tokens_seen - self._tokens, state.num_input_tokens_seen
        if tokens > 0 and self._spent > 0:
            self.latest["tokens_per_second"] = round(tokens / self._spent, 1)
            if self._work is not None and self._peak is not None:
                share = mfu(tokens / self._spent, self._work, self._peak * current_world().size)
                self.latest["mfu"] = round(share, 4)
        self.latest |= usage(args.device)
        self._spent, self._since = 0.0, time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pause()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.pause()

    def pause(self) -> None:
        """Stop the clock: the time since the last step or log was not training."""
        if self._since is not None:
            self._spent += max(self._until - self._since, 0.0)
            self._since = None


def make_rates(run: Run, model: Any, parameters: Parameters, rows: Sequence[Any]) -> Rates:
    """:param rows: those that train."""
    return Rates(estimate_work(run, model, parameters, rows), compute_dtype(run))


def usage(device: torch.device) -> dict[str, float]:
    """Of a GPU, as nvidia-smi has it: memory in use in GB, and the share of the last second in which it worked (where
    nvidia-ml-py is installed). Empty on a CPU."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    found = {"gpu_memory_gb": round((total - free) / 1e9, 3)}
    try:
        found["gpu_utilization"] = torch.cuda.utilization(device)
    except Exception:  # no nvidia-ml-py, or a driver that does not tell
        return found
    return found
