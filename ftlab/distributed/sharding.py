"""Where the weights of a run are while several processes train it: whole in each, or in shards.

Whatever reads weights asks here. Whatever gives whole weights waits for the other processes: all must make the same
calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ftlab.distributed import fsdp
from ftlab.distributed.gradients import StepGradients, ZeroGradients
from ftlab.distributed.world import World, planned_devices
from ftlab.schema import Run


class Sharding:
    """Every process has all weights, as under DDP, or is alone.

    A wrapper overrides what is otherwise with it.

    :cvar wrapper: the class that the trainer calls in training; None: the model itself.
    :cvar wraps_early: whether the wrapper must have the model before anything is computed with it, because it is the
        wrapper that puts the weights where they are computed with.
    :cvar is_in_place: whether no wrapper is around the model then: its weights are sharded where they are, and
        transformers takes it for any other.
    """

    wrapper: str | None = None
    wraps_early = False
    is_in_place = False

    @property
    def layout(self) -> str:
        """What is sharded, as :meth:`found_layout` says it too."""
        return "nothing is sharded"

    def found_layout(self, wrapped: Any) -> str:
        """What the wrapper does. :param wrapped: the model as it is called in training."""
        return "nothing is sharded"

    def found_wrapper(self, wrapped: Any) -> str:
        """As :attr:`wrapper` has it. :param wrapped: the model as it is called in training."""
        return type(wrapped).__name__

    @property
    def is_whole(self) -> bool:
        """Whether a parameter of the model is all of the weight."""
        return True

    def elements(self, parameter: Any) -> int:
        """Numbers in all of a weight."""
        return int(parameter.numel())

    def local(self, parameter: Any) -> Any:
        """This process's part of a weight, a tensor."""
        return parameter.detach()

    def whole(self, tensor: Any) -> Any:
        """All of a tensor of the model's."""
        return tensor

    def put(self, target: Any, values: Any) -> None:
        """Write into a tensor of the model's. :param values: for all of it, in every process."""
        target.copy_(values)

    def release(self, model: Any) -> None:
        """Give back what forwards without a backward have gathered: whoever has evaluated a model does."""

    @contextmanager
    def gathered(self, parameters: Sequence[Any]) -> Iterator[None]:
        """Within, these parameters are whole, to be read."""
        yield

    def cast(self, model: Any, dtype: Any) -> None:
        """Give the weights the precision that the wrapper will give them. :param dtype: of matrix products."""

    def shard(self, model: Any, config: dict[str, Any], dtype: Any, device: Any) -> None:
        """Keep this process's part of a model that is whole, where the wrapper would first put all of it on the device.

        :param config: of the wrapper. :param dtype: of the weights. :param device: that they are computed with on.
        """

    def step_gradients(self, accelerator: Any, world: World, wrapped: Any) -> StepGradients:
        """For one optimizer step of several backwards, where weights are whole.

        :param wrapped: the model as it is called in training.
        """
        return StepGradients(accelerator, world)

    def state_dict(self, model: Any, is_wanted: Callable[[Any], bool]) -> dict[str, Any] | None:
        """The whole weights for a file, in the first process alone; None: the model's own ``state_dict`` has them.

        :param is_wanted: of a parameter.
        """
        return None


class Ddp(Sharding):
    """torch's DistributedDataParallel: whole weights, and their gradients averaged."""

    wrapper = "DistributedDataParallel"


class Zero(Sharding):
    """DeepSpeed at stage 1 or 2: optimizer states are sharded, at 2 gradients too; the weights are whole."""

    wrapper = "DeepSpeedEngine"
    wraps_early = True

    def __init__(self, run: Run):
        self._stage = run.deepspeed.stage
        self._offloads = run.deepspeed.offload_optimizer, run.deepspeed.offload_parameters

    @property
    def layout(self) -> str:
        assert self._stage is not None
        return _zero_layout(self._stage, *self._offloads)

    def found_layout(self, wrapped: Any) -> str:
        if type(wrapped).__name__ != self.wrapper:
            return super().found_layout(wrapped)
        zero = wrapped._config.zero_config
        host = [part is not None and part.device == "cpu" for part in (zero.offload_optimizer, zero.offload_param)]
        return _zero_layout(wrapped.zero_optimization_stage(), *host)

    def cast(self, model: Any, dtype: Any) -> None:
        for parameter in model.parameters():
            if parameter.is_floating_point():  # what is quantized is not
                parameter.data = parameter.data.to(dtype)

    def step_gradients(self, accelerator: Any, world: World, wrapped: Any) -> StepGradients:
        return ZeroGradients(accelerator, world, wrapped)


class Zero3(Zero):
    """DeepSpeed at stage 3: of most weights a process has a share; a module's are gathered while it computes."""

    @property
    def is_whole(self) -> bool:
        return False

    def shard(self, model: Any, config: dict[str, Any], dtype: Any, device: Any) -> None:
        """One weight at a time: the device need not hold the model, although the host must."""
        import deepspeed

        self.cast(model, dtype)
        deepspeed.zero.Init(module=model, config_dict_or_path=config, dtype=dtype)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)

    def elements(self, parameter: Any) -> int:
        return int(getattr(parameter, "ds_numel", parameter.numel()))

    def local(self, parameter: Any) -> Any:
        return getattr(parameter, "ds_tensor", parameter).detach()

    @contextmanager
    def gathered(self, parameters: Sequence[Any]) -> Iterator[None]:
        import deepspeed

        with deepspeed.zero.GatheredParameters([p for p in parameters if hasattr(p, "ds_id")]):
            yield

    def state_dict(self, model: Any, is_wanted: Callable[[Any], bool]) -> dict[str, Any] | None:
        def gathered(parameter: Any) -> Any:
            with self.gathered([parameter]):
                return parameter.detach().clone()

        return _whole_state_dict(model, is_wanted, gathered)


class Fsdp(Sharding):
    """FSDP2: weights, gradients and optimizer states are all sharded; a layer's weights are gathered while it
    computes."""

    wrapper = "fully_shard"
    wraps_early = is_in_place = True

    def __init__(self, run: Run):
        self._run = run

    @property
    def is_whole(self) -> bool:
        return False

    @property
    def layout(self) -> str:
        return _fsdp_layout(planned_devices(self._run.hardware), self._run.model.architecture.layers + 1)

    def found_layout(self, wrapped: Any) -> str:
        import torch

        units = fsdp.sharded_units(wrapped)
        return _fsdp_layout(torch.distributed.get_world_size(), units) if units else super().found_layout(wrapped)

    def found_wrapper(self, wrapped: Any) -> str:
        return self.wrapper if fsdp.sharded_units(wrapped) else super().found_wrapper(wrapped)

    def local(self, parameter: Any) -> Any:
        return fsdp.local_part(parameter)

    def whole(self, tensor: Any) -> Any:
        return fsdp.whole(tensor)

    def put(self, target: Any, values: Any) -> None:
        fsdp.put(target, values)

    def release(self, model: Any) -> None:
        fsdp.release(model)

    def state_dict(self, model: Any, is_wanted: Callable[[Any], bool]) -> dict[str, Any] | None:
        self.release(model)
        return _whole_state_dict(model, is_wanted, self.whole)


def _whole_state_dict(model: Any, is_wanted: Callable[[Any], bool], gathered: Callable[[Any], Any]) -> dict[str, Any]:
    """One weight at a time, so that no device must hold all of them. :param gathered: all of a parameter."""
    import torch

    is_first = torch.distributed.get_rank() == 0
    found: dict[str, Any] = {}
    known: dict[int, Any] = {}  # tied weights have two names, and are gathered once
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not is_wanted(parameter):
            continue
        if id(parameter) not in known:
            values = gathered(parameter)
            known[id(parameter)] = values.cpu() if is_first else None
        found[name] = known[id(parameter)]
    saved = model.state_dict().keys()  # without buffers that are not saved
    found |= {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in saved}
    return found if is_first else {}


def _fsdp_layout(parts: int, units: int) -> str:
    return f"weights, gradients and optimizer states in {parts} parts, {units} gathered one by one"


def _zero_layout(stage: int, offloads_optimizer: bool, offloads_parameters: bool) -> str:
    host = ["optimizer"] * offloads_optimizer + ["parameters"] * offloads_parameters
    return f"ZeRO-{stage}" + (f" with {' and '.join(host)} in the host's memory" if host else "")


def uses_deepspeed(run: Run) -> bool:
    """Whether DeepSpeed trains it. At stage 0 nothing is sharded, and torch's own data parallelism does the same."""
    return run.deepspeed.stage in (1, 2, 3)


def needs_launch(run: Run) -> bool:
    """Whether its processes are started by torch's launcher: DeepSpeed asks its variables even about the only one."""
    return planned_devices(run.hardware) > 1 or uses_deepspeed(run)


def sharding_of(run: Run) -> Sharding:
    """Where the run's weights are once training has begun."""
    if uses_deepspeed(run):
        return Zero3(run) if run.deepspeed.stage == 3 else Zero(run)
    if run.hardware.fsdp:
        return Fsdp(run)
    return Ddp() if planned_devices(run.hardware) > 1 else Sharding()
