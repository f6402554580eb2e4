"""Losses that are no number any more, or absurd: seen on the device, told with their step and its rows."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import TrainerControl

from ftlab.base.background import Background
from ftlab.distributed.world import current_world
from ftlab.errors import DivergedError
from ftlab.measure.sample import NoProbabilitiesError
from ftlab.rundir.checkpoints import checkpoints, is_whole
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.stages.trainer import batching
from ftlab.stages.trainer.fully_sharded import FullyShardedTrainer

NameRows = Callable[[Sequence[int]], list[str]]  # indices of train rows -> file:row of what is in them
MAX_NAMED_ROWS = 10  # rows in a message; log.txt has them all


@dataclass(frozen=True)
class Step:
    """What a step left on the device. :param loss: summed since the last log. :param norm: of its gradients.
    :param parts: the loss of each micro-batch, where they are told apart.
    """

    number: int
    loss: Tensor
    norm: Tensor
    parts: list[Tensor]


class WatchedTrainer(FullyShardedTrainer):
    """Stops at the first step whose loss or gradients are not finite, and writes no checkpoint from there on.

    Neither the device nor other processes are waited for: steps are looked at together whenever one of them is logged,
    evaluated or saved, and before the policy writes answers; the first bad one is the one that is named.

    :cvar has_sized_loss: False where a loss near or below 0 is ordinary, so that there is no telling a spike.
    :ivar files: where the phase's checkpoints are. :ivar background: where one of them may be being written.
    """

    has_sized_loss = True
    files: PhaseFiles
    control: TrainerControl

    def __init__(self, *args: Any, **more: Any) -> None:
        self.world = current_world()
        self.background = Background("checkpoint")
        self._steps: list[Step] = []
        self._parts: list[Tensor] = []
        self._last_step = -1
        self._spikes: SpikeDetector | None = None
        self._name_rows: NameRows | None = None
        self._note: Callable[[str], Any] = lambda line: None
        self._look_at = ""
        super().__init__(*args, **more)

    def fingerprint(self) -> str:
        """What differs where the rows that train differ."""
        rows: Any = self.train_dataset
        return str(rows.fingerprint() if hasattr(rows, "fingerprint") else len(rows))

    def watch(self, loss_spike: float | None, name_rows: NameRows, note: Callable[[str], Any], look_at: str) -> None:
        """:param loss_spike: see ``train.loss_spike``. :param name_rows: what a user calls rows of the train split.
        :param note: takes a line for the log. :param look_at: the command that shows a step, but for its number.
        """
        self._spikes = None if loss_spike is None or not self.has_sized_loss else SpikeDetector(loss_spike)
        self._name_rows, self._note, self._look_at = name_rows, note, look_at

    def rows_of_step(self, step: int) -> list[list[int]]:
        """Indices of the train rows of an optimizer step, counted from 1, micro-batch by micro-batch."""
        args, rows = self.args, cast(Sized, self.train_dataset)
        assert args.data_seed is not None
        batch, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        return batching.rows_of_step(step, len(rows), batch, accumulation, self.world.size, args.data_seed)

    def training_step(self, *args: Any, **more: Any) -> Tensor:
        loss = super().training_step(*args, **more)
        self._parts.append(loss.detach())
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **more: Any) -> None:
        number, control = self.state.global_step, self.control
        if number > self._last_step:  # it is also called at the end of an epoch
            norm = torch.as_tensor(0.0 if grad_norm is None else grad_norm, dtype=torch.float32, device=tr_loss.device)
            self._steps.append(Step(number, tr_loss.detach().float().clone(), norm.detach(), self._parts))
            self._last_step, self._parts = number, []
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self._check_steps()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **more)

    def _check_steps(self) -> None:
        """At all steps since the last time. Every rank sees the same.

        :raises DivergedError: a loss, a gradient or, before they would be saved, a weight is not finite.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        own = torch.stack([torch.stack([step.loss, step.norm, self._step_loss(step)]) for step in steps])
        # accelerate's scaler or DeepSpeed's own: fp16 tries scales out, and leaves steps out that overflow
        scaled = self.accelerator.scaler is not None or (self.is_deepspeed_enabled and self.args.fp16)
        for step, (total, norm, loss) in zip(steps, self.accelerator.reduce(own, "mean").tolist()):
            if not math.isfinite(total):
                self._diverged(step, f"The loss is {total if math.isfinite(loss) else loss}")
            if not math.isfinite(norm) and not scaled:
                self._diverged(step, f"The norm of the gradients is {norm} (the loss {loss:.4g})")
            self._report_spike(step, loss)
        control = self.control
        if (control.should_save or control.should_training_stop) and not self._are_finite():
            self._diverged(steps[-1], "A weight is no longer a number after the optimizer's step")

    def _step_loss(self, step: Step) -> Tensor:
        """The step's own loss; what has been summed up where a stage does not tell its parts."""
        return torch.stack(step.parts).float().sum() if step.parts else step.loss

    def _are_finite(self) -> bool:
        """Of sharded weights each process has its part to look at."""
        model: Any = self.model
        parts = [self.sharding.local(p) for p in model.parameters() if p.requires_grad]
        are_finite = torch.stack([part.isfinite().all() for part in parts]).all()
        if not self.sharding.is_whole:
            return bool(self.accelerator.reduce(are_finite.float()[None], "mean").item() == 1.0)
        return bool(are_finite)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """What the policy writes its answers in. On a CPU torch says what it cannot draw from; an accelerator dies of
        it, so the weights are looked at first.

        :raises DivergedError: its weights, or the probabilities that they give, are no numbers.
        """
        self._check_steps()
        if not self._are_finite():
            self._sampling_failed("A weight of the policy is no longer a number")
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, NoProbabilitiesError) and "probability tensor" not in str(error):
                raise
            self._sampling_failed("The policy's probabilities are no numbers, and no answer can be sampled")

    def _sampling_failed(self, what: str) -> None:
        number, nothing = self.state.global_step, torch.tensor(math.nan)
        if number == 0:
            reason = "before the first step: look at model.path and model.adapter, or give another hardware.precision."
            raise DivergedError(f"{what} {reason}") from None
        self._diverged(Step(number, nothing, nothing, []), what)

    def _diverged(self, step: Step, what: str) -> None:
        self.background.settle()
        whole = next((path for path in checkpoints(self.files.folder) if is_whole(path)), None)
        left = "No checkpoint was written before it" if whole is None else f"The last good checkpoint is {whole}"
        rows = self._rows(step, bad_only=True)
        raise DivergedError(
            f"{what} at step {step.number}: the run has diverged.{rows} {left}. If nothing is wrong with these rows, "
            "start again (run.if_exists=new) with a lower train.learning_rate or train.max_grad_norm, or a longer "
            f"train.warmup_ratio.{self._format_step(step)}"
        )

    def _report_spike(self, step: Step, loss: float) -> None:
        usual = None if self._spikes is None else self._spikes.usual_value(loss)
        if usual is not None:
            times = f"{loss / usual:.1f} times the usual {usual:.4g} (train.loss_spike)"
            rows = self._rows(step, bad_only=False)
            self._note(f"step {step.number}: the loss is {loss:.4g}, {times}.{rows}{self._format_step(step)}")

    def _format_step(self, step: Step) -> str:
        return f" To see the rows: {self._look_at}{step.number}" if self._look_at else ""

    def _rows(self, step: Step, bad_only: bool) -> str:
        """The sentence that names the rows of a step: of the micro-batches that are not finite, where that is known."""
        if self._name_rows is None:
            return ""
        parts = self.rows_of_step(step.number)
        if bad_only and len(step.parts) == len(parts):
            bad = [rows for rows, loss in zip(parts, step.parts) if not math.isfinite(loss.item())]
            parts = bad or parts
        names = self._name_rows(list(dict.fromkeys(row for rows in parts for row in rows)))
        if len(names) > MAX_NAMED_ROWS:
            self._note(f"step {step.number} trained on: {', '.join(names)}")
        more = f" and {len(names) - MAX_NAMED_ROWS} more, all in log.txt" if len(names) > MAX_NAMED_ROWS else ""
        return f" Its batch: {', '.join(names[:MAX_NAMED_ROWS])}{more}."


class SpikeDetector:
    """Values that are absurd beside those before them: more than ``factor`` times both the median of the last hundred
    and the median of the first twenty. The second keeps a loss that has become small, where single rows are many times
    the median, from alarming anybody.
    """

    WINDOW, FIRST = 100, 20

    def __init__(self, factor: float):
        self._factor = factor
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=self.WINDOW)

    def usual_value(self, value: float) -> float | None:
        """What is usual, if this value is a spike; it counts among those before the next."""
        usual = max(statistics.median(self._first), statistics.median(self._last)) if self._is_known else 0.0
        if not self._is_known:
            self._first.append(value)
        self._last.append(value)
        return usual if usual > 0 and value > self._factor * usual else None

    @property
    def _is_known(self) -> bool:
        return len(self._first) == self.FIRST

    def state_dict(self) -> dict[str, list[float]]:
        return {"first": self._first, "last": list(self._last)}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        self._first, self._last = list(state["first"]), deque(state["last"], maxlen=self.WINDOW)


def order_of_epoch(epoch: int, rows: int, seed: int) -> list[int]:
    """The order of accelerate's seedable sampler. :param epoch: from 0."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
