"""The tokenizer that travels with a run, and the tokens at which generation stops."""

from __future__ import annotations

from typing import Any

from ftlab.errors import NotReadyError
from ftlab.schema import Model


def load_tokenizer(model: Model) -> Any:
    """The model's tokenizer, with a pad token.

    :raises NotReadyError: there is none, it cannot be read, or it has no token that ends a text.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise NotReadyError(f"model.path={model.path}: no tokenizer there: {str(error).splitlines()[0]}") from None
    if tokenizer.eos_token is None:
        raise NotReadyError(f"The tokenizer of {model.path} has no eos_token; name one in its tokenizer_config.json.")
    if tokenizer.pad_token is None:
        # Packed rows never learn or attend to padding, so any token that exists can stand for it.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def stop_tokens(tokenizer: Any, trained_text: str | None) -> list[int]:
    """Ids at which an answer ends: the end of text, and the last token of what the template trains.

    :param trained_text: the text of one assistant turn as the template marks it, or None for plain text.
    """
    stops = [tokenizer.eos_token_id]
    if trained_text:
        last = tokenizer(trained_text, add_special_tokens=False)["input_ids"][-1]
        stops = [last, *(stop for stop in stops if stop != last)]
    return stops
