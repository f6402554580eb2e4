"""The gradients of one optimizer step, where the loop of a trainer does not make them: of several backwards, and of
parameters that are clipped apart. Who sums them up over the processes, and where they are then, is the wrapper's
business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ftlab.distributed.shares import sum_over_ranks
from ftlab.distributed.world import World

_Outputs = TypeVar("_Outputs")


class StepGradients:
    """Each process adds up those of its own rows. After the last backward all get the sums.

    :param accelerator: accelerate's.
    """

    def __init__(self, accelerator: Any, world: World):
        self._accelerator, self._world = accelerator, world

    def forward(self, compute: Callable[[], _Outputs]) -> _Outputs:
        """What ``compute`` gives, for a backward. Wrappers do their work in that call."""
        return compute()

    def backward(self, loss: Any) -> None:
        """:param loss: a share of what the step lowers: the sum over all backwards of all processes is the whole."""
        self._accelerator.backward(loss)

    def end(self, parameters: Sequence[Any]) -> None:
        """After the last backward. :param parameters: all that train."""
        sum_over_ranks([p.grad for p in parameters if p.grad is not None], self._world)

    def unscale(self) -> None:
        """Once, before the first :meth:`clip`: take out what fp16 has multiplied the losses with."""
        self._accelerator.unscale_gradients()

    def clip(self, parameters: Sequence[Any], limit: float) -> Any:
        """Make the gradients of some parameters smaller where their norm is over ``limit``; the norm before."""
        import torch

        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def step(self) -> None:
        """Take the optimizer's step, where the loop's own call of it does nothing."""


class ZeroGradients(StepGradients):
    """DeepSpeed's at stages 1 and 2: it averages them, and leaves a process the part that its optimizer needs.

    Its own loop has a backward for every micro-batch, in which every parameter has a part, and clips all of them by one
    norm. Here it is told where the step ends, and parts are clipped.

    :param engine: DeepSpeed's, with a ``gradient_clipping`` of 0, around a module whose forward calls what it is given.
    """

    def __init__(self, accelerator: Any, world: World, engine: Any):
        super().__init__(accelerator, world)
        self._engine, self._optimizer = engine, engine.optimizer
        self._has_any = False
        engine.set_gradient_accumulation_boundary(False)
        if self._optimizer.cpu_offload:
            # To the gradient of a parameter that has no part in the first backward of a step, what is in its buffer of
            # the step before would be added.
            for kept in self._optimizer.accumulated_grads_in_cpu.values():
                kept.zero_()

    def forward(self, compute: Callable[[], _Outputs]) -> _Outputs:
        outputs: _Outputs = self._engine(compute)
        return outputs

    def backward(self, loss: Any) -> None:
        self._has_any = True
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def end(self, parameters: Sequence[Any]) -> None:
        """What ``engine.step`` does where the caller counts the backwards (``managed_gradient_accumulation=false``)."""
        self._engine.set_gradient_accumulation_boundary(True)
        if self._engine.zero_optimization_partition_gradients():
            self._optimizer.finalize_gradient_accumulation_boundary()
        else:
            self._engine.allreduce_gradients()

    def unscale(self) -> None:
        """The optimizer does, in its step."""

    def clip(self, parameters: Sequence[Any], limit: float) -> Any:
        import torch

        square = torch.zeros((), device=self._engine.device)
        if not self._has_any:
            return square
        parts = [part for part in map(_own_part, parameters) if part is not None]
        if parts:
            square += torch.stack([part.float().square().sum() for part in parts]).sum().to(square.device)
        sum_over_ranks([square], self._world)
        norm = square.sqrt() / self._optimizer.loss_scale
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ has it
        for part in parts:
            part.mul_(factor.to(part.device))
        return norm

    def step(self) -> None:
        """None without a backward: an optimizer makes steps of gradients of 0 too."""
        if self._has_any:
            self._engine.step()


def _own_part(parameter: Any) -> Any:
    """The part of a parameter's gradient that this process has; None where it has none."""
    mapping = parameter._hp_mapping
    return None if mapping is None else mapping.get_lp_grad_fragment(parameter._index_in_param_group)
