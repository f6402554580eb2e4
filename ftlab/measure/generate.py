"""Batched greedy generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ftlab.model.generation import only_what_is_asked
from ftlab.model.padding import reads_padding


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    max_tokens: int,
    stop: Sequence[int],
    advance: Callable[[int], None] = lambda count: None,
    is_sharded: bool = False,
) -> list[str]:
    """Return the greedy continuation of each prompt, without special tokens, in the order of the prompts.

    Prompts run in batches of similar length, or of equal length where the family reads padding. The model's training
    mode and the random state are left as they were.

    :param batch_size: prompts at most of a batch. :param max_tokens: of a batch at most, what is generated included; a
        prompt that has more by itself runs alone.
    :param stop: token ids that end an answer.
    :param advance: called with the number of prompts done after each batch.
    :param is_sharded: whether each process has a part of the weights alone: all of them then call the model as often.
    """
    from transformers import GenerationConfig

    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(stop), pad_token_id=tokenizer.pad_token_id
    )
    was_training = model.training
    model.eval()
    tokenized = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    order = sorted(range(len(prompts)), key=lambda i: (len(tokenized[i]), i))
    answers = [""] * len(prompts)
    lengths = [len(ids) + max_new_tokens for ids in tokenized]
    for batch in prompt_batches(order, lengths, batch_size, max_tokens, reads_padding(model)):
        width = len(tokenized[batch[-1]])
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(batch):
            ids[row, width - len(tokenized[i]) :] = torch.tensor(tokenized[i])
            mask[row, width - len(tokenized[i]) :] = 1
        with only_what_is_asked(model):
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=greedy,
                synced_gpus=is_sharded,
            )
        for i, text in zip(batch, tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)):
            answers[i] = text
        advance(len(batch))
    model.train(was_training)
    return answers


def prompt_batches(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, max_tokens: float, equal: bool
) -> Iterator[list[int]]:
    """:param order: indices, the shortest first. :param lengths: of each index. :param batch_size: indices at most of a
    batch. :param max_tokens: of a batch at most, unless one index has more. :param equal: whether all of a batch must
    be of one length."""
    batch: list[int] = []
    for i in order:
        is_full = len(batch) == batch_size or (len(batch) + 1) * lengths[i] > max_tokens
        if batch and (is_full or (equal and lengths[i] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
