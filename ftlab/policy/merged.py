"""A model that has its adapter in its weights."""

from __future__ import annotations

from typing import Any

from ftlab.schema import Run


def merged_model(config: Run, tokenizer: Any, dtype: Any = None) -> Any:
    """Whole weights that compute what ``model.path`` and ``model.adapter`` do together.

    The adapter is merged into the weights beside which it was trained: those that a quantized base computes with, and
    not those that it was quantized from, unless ``config`` says ``quant=none``.

    :param tokenizer: of the policy. :param dtype: of torch, in which they are added up; None: as the base is loaded.
    :raises NotReadyError: the base or the adapter is not there, or they do not belong together.
    """
    from transformers import set_seed

    from ftlab.model import load
    from ftlab.model.adapter import load_adapter
    from ftlab.model.merge import merge_adapter, unquantized

    adapter = str(config.model.adapter)
    set_seed(config.seed)  # from which model.init=random draws
    model: Any = load.load_model(config)
    load.fit_embeddings(model, tokenizer)
    model = unquantized(model)
    model = model if dtype is None else model.to(dtype)
    return merge_adapter(load_adapter(model, adapter, f"model.adapter={adapter}"))
