"""FSDP2: torch's ``fully_shard``, of a run. Every process keeps a share of each weight, of its gradient and of the
optimizer's states; a decoder layer's weights are gathered while it computes, in the forward and in the backward.

accelerate's own way is not taken: it shards only once training begins, trains under DDP on a CPU without a word, and
leaves 4-bit weights whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ftlab.errors import NotReadyError, first_line
from ftlab.schema import Run


def gathers_in_16_bits(run: Run, precision: str) -> bool:
    """Whether the decoder's layers are gathered in 16 bits. Weights that train are kept in fp32; where most of them do,
    their copies that matrix products take are what is sent around. Of an adapter's few nothing is saved by it.

    :param precision: of matrix products: fp32, bf16 or fp16.
    """
    return precision == "bf16" and run.method.name != "lora"


def shard_model(model: Any, layers: Iterable[Any], device: Any, in_16_bits: bool) -> None:
    """Shard a model over all processes, in place. Each layer is gathered by itself, what is left with the whole model:
    the head stays gathered from the forward to the end of the backward, since the loss calls it as often as it likes,
    in each process another number of times.

    :param model: of transformers, without adapters around it; they may be in it. :param layers: its decoder's.
    :param device: where this process computes. :param in_16_bits: see :func:`gathers_in_16_bits`.
    :raises NotReadyError: torch cannot shard it.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    # Between layers numbers stay in fp32, as they are under autocast in one process.
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    try:
        for layer in layers:
            # With the constants of 4-bit weights, which bitsandbytes finds at the module; the rest fully_shard moves.
            fully_shard(layer.to(device), mesh=mesh, mp_policy=policy if in_16_bits else MixedPrecisionPolicy())
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise NotReadyError(
            f"hardware.fsdp=true: FSDP cannot shard {type(model).__name__}: {first_line(error)}. Use deepspeed=z2 or "
            "hardware.fsdp=false."
        ) from error
    # accelerate would take it for a model that it has to wrap, and DDP would average what is averaged already.
    model._is_accelerate_prepared = True


def sharded_units(model: Any) -> int:
    """How many parts of a model are gathered by themselves; 0 where it is not sharded."""
    from torch.distributed.fsdp import FSDPModule

    return sum(isinstance(module, FSDPModule) for module in model.modules())


def release(model: Any) -> None:
    """Give back what a forward without a backward has gathered."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_part(tensor: Any) -> Any:
    """This process's share of a tensor; all of one that is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def whole(tensor: Any) -> Any:
    """All of a tensor, for which every process gives its share; of one that is not sharded the tensor itself."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor


def put(target: Any, values: Any) -> None:
    """Write values into a tensor, each process into its share. :param values: all of them, in every process."""
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    with torch.no_grad():
        if isinstance(target, DTensor):
            # No process asks another for what it has itself.
            values = distribute_tensor(values, target.device_mesh, target.placements, src_data_rank=None)
        target.copy_(values)


def local_states(state: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer's ``state_dict`` has of this process, with the names of what is sharded. :param state: with
    sharded tensors."""
    from torch.distributed.tensor import DTensor

    names = {
        key: [name for name, value in one.items() if isinstance(value, DTensor)] for key, one in state["state"].items()
    }
    local = {
        key: {name: local_part(value) if name in names[key] else value for name, value in one.items()}
        for key, one in state["state"].items()
    }
    return {**state, "state": local, "sharded": names}


def sharded_states(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """The other way round, for ``load_state_dict``. :param state: as :func:`local_states` gives it.
    :param optimizer: over the sharded parameters."""
    from torch.distributed.tensor import DTensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def sharded(value: Any, like: Any) -> Any:
        shape, stride = like.shape, like.stride()
        return DTensor.from_local(value, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)

    states = {key: dict(one) for key, one in state["state"].items()}
    for key, names in state["sharded"].items():
        states[key] |= {name: sharded(states[key][name], parameters[key]) for name in names}
    return {"state": states, "param_groups": state["param_groups"]}
