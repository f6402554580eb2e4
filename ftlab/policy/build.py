"""The model that a stage trains, as its config asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftlab.model.adapter import apply_method
from ftlab.model.load import fit_embeddings, load_model
from ftlab.model.score import attach_score
from ftlab.policy.tokens import Tokens
from ftlab.schema import Run


def build_model(run: Run, tokens: Tokens, load: Callable[[Run], Any] = load_model) -> tuple[Any, int]:
    """The base with an embedding for every token, rm's value head, and what ``method`` trains, drawn from the seed; and
    how many embeddings that added.

    :param load: gives the base.
    :raises NotReadyError, ConfigError: as loading and :func:`ftlab.model.adapter.apply_method` do.
    """
    from transformers import set_seed

    set_seed(run.seed)
    model = load(run)
    added = fit_embeddings(model, tokens.tokenizer)
    if run.stage.name == "rm":
        attach_score(model)
    return apply_method(model, run, list(tokens.additions.tokens.values())), added
