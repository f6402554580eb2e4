"""What the processes of a run have generated, put together."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ftlab.distributed.world import World

OF_COMPLETIONS = (
    "completion_ids", "completion_mask", "old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps",
    "importance_sampling_ratio",
)  # fmt: skip
_OF_PROMPTS = ("prompt_ids", "prompt_mask")


def join_generation(own: dict[str, Tensor], pad_id: int, world: World, accelerator: Any) -> dict[str, Tensor]:
    """The completions of all processes, in the order of their ranks, which is that of the prompts.

    :param own: tensors of this process's completions, (B, ...), prompts padded on the left, what is of completions on
        the right; scalars, which all have in common.
    """
    if world.size == 1:
        return own
    found = {}
    for name, value in own.items():
        if value.ndim:
            if name in (*_OF_PROMPTS, *OF_COMPLETIONS):
                filler = pad_id if name.endswith("_ids") else 0
                value = accelerator.pad_across_processes(value, 1, filler, pad_first=name in _OF_PROMPTS)
            value = accelerator.gather(value)
        found[name] = value
    return found
