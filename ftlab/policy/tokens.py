"""What a run reads and writes with: the tokenizer, completed, and the template. No weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftlab.data.formats import Conversation, RowError
from ftlab.data.tokens.shipped_templates import front_matter
from ftlab.data.tokens.templates import Template
from ftlab.model import tokenizer as tokenizers
from ftlab.model.tokenizer import Additions
from ftlab.schema import Run


@dataclass(frozen=True, slots=True)
class Tokens:
    """:param tokenizer: as it is saved beside the weights. :param template: of conversations; None for plain text.
    :param additions: what the tokenizer lacked. :param stop: ids at which an answer ends, the template's own first.
    :param warning: a sentence on a template that teaches no end of an answer, and what would.
    """

    tokenizer: Any
    template: Template | None
    additions: Additions
    stop: list[int]
    warning: str | None = None


def load_tokens(run: Run) -> Tokens:
    """The tokenizer of ``run.model``, with the template's tokens and a token that pads, and the template it carries.

    :raises NotReadyError: there is no tokenizer, or no template that says what an assistant writes.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = tokenizers.load_tokenizer(run.model)
    template = None if run.stage.name == "pt" else Template.for_tokenizer(tokenizer, run.model.template)
    matter = front_matter(template.source) if template else None
    additions = tokenizers.complete(tokenizer, matter.tokens if matter else ())
    if template is not None:
        tokenizer.chat_template = template.source  # what is trained is what is served
    answer = _probe_answer(template)
    warning = None
    if answer is not None and tokenizers.turn_end(tokenizer, answer) is None:
        warning = (
            "The chat template trains no token that ends an answer, so the model will not learn to stop. Put "
            f"{{% generation %}} and {{% endgeneration %}} around the content and {tokenizer.eos_token} in "
            "chat_template.jinja of the model's folder, or name a shipped template with model.template=NAME."
        )
    return Tokens(tokenizer, template, additions, tokenizers.stop_tokens(tokenizer, answer), warning)


def _probe_answer(template: Template | None) -> str | None:
    """What the template makes the model write as an answer."""
    if template is None:
        return None
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    try:
        rendered = template.render(Conversation([question, answer]))
    except RowError:  # it wants a system message, say; its turns then have to end with the end of text
        return None
    return rendered.text[slice(*rendered.spans[-1])]
