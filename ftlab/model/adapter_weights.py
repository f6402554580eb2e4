"""The saved weights of an adapter, put into a model: all of them, or none. PEFT leaves what is not there as drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ftlab.errors import NotReadyError

_ROWS = ".token_adapter.trainable_tokens_delta"  # in PEFT's names of single rows that are trained


def put_adapter_weights(
    model: Any, saved: Mapping[str, Tensor], spec: str, adapter: str, added: Collection[str] = ()
) -> None:
    """Give an adapter of a model its saved weights.

    :param model: a PEFT model. :param saved: as PEFT saves them. :param spec: where they are, as the user typed it.
    :param adapter: its name in the model. :param added: modules that are trained beside the adapter only now, such as a
        value head; where they are not saved they stay as they were drawn.
    :raises NotReadyError: the adapter has weights that are not saved, or the other way round.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    drawn = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    saved = _without_copies(saved, drawn)
    wrong: Any = set_peft_model_state_dict(model, {**drawn, **saved}, adapter_name=adapter)
    if wrong.unexpected_keys:
        raise NotReadyError(f"{spec} is of another model: it has {wrong.unexpected_keys[0]}.")
    lacking = sorted(name for name in drawn.keys() - saved.keys() if not {*added} & {*name.split(".")})
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise NotReadyError(
            f"{spec} is cut short or of another model: it has no {lacking[0]}{more}, and there would be random numbers."
            " Copy the folder again."
        )


def _without_copies(saved: Mapping[str, Tensor], drawn: Collection[str]) -> dict[str, Tensor]:
    """Trained rows of an embedding that the head shares are saved under the name of the head too, and loaded once."""
    rows = {name: saved[name] for name in drawn if _ROWS in name and name in saved}
    return {
        name: value
        for name, value in saved.items()
        if _ROWS not in name or name in rows or not any(torch.equal(value, own) for own in rows.values())
    }
