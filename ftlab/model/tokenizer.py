"""The tokenizer that travels with a run, and the tokens at which generation stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.errors import NotReadyError, first_line
from ftlab.model import remote_code
from ftlab.schema import Method, Model

PAD = "<|pad|>"  # added where the vocabulary has nothing else to pad with
# Tokens that families set aside for padding, or for nothing yet.
_SPARE = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", PAD, "<|endoftext|>", "<|reserved_special_token_0|>")


@dataclass(frozen=True, slots=True)
class Additions:
    """:param tokens: written by the template, and new to the tokenizer; they have to be learned.
    :param pad: the token that pads, where the tokenizer's own choice was none or its end of text.
    """

    tokens: dict[str, int]
    pad: str | None

    def __str__(self) -> str:
        parts = [f"new tokens of the template: {', '.join(self.tokens)}"] if self.tokens else []
        parts += [f"{self.pad} pads"] if self.pad else []
        return "; ".join(parts)


def load_tokenizer(model: Model) -> Any:
    """The model's tokenizer.

    :raises NotReadyError: there is none, it cannot be read, or it has no token that ends a text.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # tokenizers raises anything at all on files that are damaged
        if remote_code.is_untrusted(model, error):
            raise NotReadyError(f"{remote_code.explain(model)}.") from None
        raise NotReadyError(f"model.path={model.path}: the tokenizer cannot be loaded: {first_line(error)}") from error
    if tokenizer.eos_token is None:
        raise NotReadyError(f"The tokenizer of {model.path} has no eos_token; name one in its tokenizer_config.json.")
    return tokenizer


def complete(tokenizer: Any, needed: Sequence[str]) -> Additions:
    """Give the tokenizer the tokens that a template writes and it lacks, and a pad token that ends nothing.

    A pad token that were the end of text would be masked by every tool that tells padding by its id, and so would the
    end that the model has to learn.
    """
    had = tokenizer.get_vocab()
    lacking = [token for token in needed if token not in had]
    if lacking:
        # Kept as they are: a second call with the same name replaces the list in some tokenizers.
        tokenizer.add_tokens(lacking, special_tokens=True)
    pad = None
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        in_use = {tokenizer.eos_token, tokenizer.bos_token, *needed}
        spare = [token for token in (*_SPARE, tokenizer.unk_token) if token in had and token not in in_use]
        tokenizer.pad_token = pad = spare[0] if spare else PAD
    vocabulary = tokenizer.get_vocab()
    return Additions({token: vocabulary[token] for token in lacking}, pad)


def added_rows_notice(tokenizer: Any, added: int, additions: Additions, method: Method) -> str | None:
    """What to say of rows that the embedding got for tokens that are the tokenizer's own; None where there are none.

    :param added: how many rows the embedding got, for the last tokens of the tokenizer.
    """
    ids = [i for i in range(len(tokenizer) - added, len(tokenizer)) if i not in additions.tokens.values()]
    unsaid = [token for token in tokenizer.convert_ids_to_tokens(ids) if token != additions.pad]
    if not unsaid:
        return None
    named = ", ".join(map(str, unsaid[:5])) + (f" and {len(unsaid) - 5} more" if len(unsaid) > 5 else "")
    stay = "" if method.name == "full" else f"; method={method.name} does not train them"
    return (
        f"the tokenizer has {len(tokenizer):,} tokens and the embedding {len(tokenizer) - added:,} rows: added {added} "
        f"rows about the mean of the others, for {named}{stay}"
    )


def stop_tokens(tokenizer: Any, trained_text: str | None) -> list[int]:
    """Return the ids at which an answer ends: the end of text, and the last token of what the template trains, if that
    is one of the tokens that stand for no text. A letter or a line break would end answers wherever it stands in them.

    :param trained_text: the text of one assistant turn as the template marks it, or None for plain text.
    """
    end = turn_end(tokenizer, trained_text)
    return [end, *({tokenizer.eos_token_id} - {end})] if end is not None else [tokenizer.eos_token_id]


def turn_end(tokenizer: Any, trained_text: str | None) -> int | None:
    """The token that a trained turn ends with; None where that is one of its text's own."""
    if not trained_text:
        return None
    last: int = tokenizer(trained_text, add_special_tokens=False)["input_ids"][-1]
    return last if last in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} else None
