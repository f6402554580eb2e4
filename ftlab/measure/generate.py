"""Batched generation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ftlab.model.generation import only_what_is_asked
from ftlab.model.padding import reads_padding

_STEP = 32  # tokens of a prompt that are read in the time that one of an answer takes, about


def generate(model: Any, tokenizer: Any, prompts: Sequence[str], **options: Any) -> list[str]:
    """The text of the greedy continuation of each prompt, without special tokens.

    :param options: as of :func:`generate_ids`, which finds it.
    """
    answers = generate_ids(model, tokenizer, prompts, **options)
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return texts


def generate_ids(
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
) -> list[list[int]]:
    """The greedy continuation of each prompt, in the order of the prompts, with its end token unless it was cut.

    The model's training mode and the random state are left as they were.

    :param batch_size, max_tokens, stop, is_sharded: as of :func:`answer_batches`.
    :param advance: called with the number of prompts done after each batch.
    """
    was_training = model.training
    model.eval()
    tokenized = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    answers: list[list[int]] = [[] for _ in prompts]
    for batch, found in answer_batches(
        model, tokenized, stop=stop, pad=tokenizer.pad_token_id, max_new_tokens=max_new_tokens, batch_size=batch_size,
        max_tokens=max_tokens, is_sharded=is_sharded,
    ):  # fmt: skip
        for i, ids in zip(batch, found):
            answers[i] = ids
        advance(len(batch))
    model.train(was_training)
    return answers


@torch.no_grad()
def answer_batches(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stop: Sequence[int],
    pad: int,
    max_new_tokens: int,
    batch_size: int,
    max_tokens: float = math.inf,
    is_sharded: bool = False,
    processors: Callable[[list[int], list[int]], Any] = lambda batch, before: None,
    expected: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield the answers to prompts as they are written: indices of prompts, and the answer's ids to each, with its end
    token unless it was cut at ``max_new_tokens``. Greedy, unless ``processors`` leave one token.

    Prompts run in batches of similar length, their answers' too where that is known, padded on the left; or of equal
    length where the family reads padding. A batch takes as many steps as its longest answer has tokens, and so the
    answers that go on when most of their batch have ended are put aside, and go on together after the others.

    :param prompts: token ids. :param stop: ids that end an answer. :param batch_size: prompts at most of a batch.
    :param max_tokens: of a batch at most, what is generated included; a prompt that has more by itself runs alone.
    :param is_sharded: whether each process has a part of the weights alone: all of them then call the model as often.
    :param expected: how many tokens each answer may have.
    :param processors: of a batch, and of how many tokens stand before each of its answers, padding included,
        transformers' logits processors.
    """
    equal = reads_padding(model)
    answers = [0] * len(prompts) if expected is None or equal else [min(one, max_new_tokens) for one in expected]
    lengths = [len(ids) + max_new_tokens for ids in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    left = list(range(len(prompts)))
    while left:
        aside: list[int] = []
        begun = [[*ids, *answer] for ids, answer in zip(prompts, written)]
        order = sorted(left, key=lambda i: (len(begun[i]) + _STEP * answers[i], len(begun[i]), i))
        for batch in prompt_batches(order, lengths, batch_size, max_tokens, equal):
            width = max(len(begun[i]) for i in batch)
            ids = torch.full((len(batch), width), pad)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, width - len(begun[i]) :] = torch.tensor(begun[i])
                mask[row, width - len(begun[i]) :] = 1
            config = greedy_config(stop, pad, max_new_tokens - min(len(written[i]) for i in batch))
            # Where others may not know that some are put aside, or where few can be together, none are.
            ends = [] if is_sharded or equal else [_MostHaveEnded(stop, width)]
            with only_what_is_asked(model):
                out = model.generate(
                    input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config,
                    logits_processor=processors(batch, [width - len(written[i]) for i in batch]),
                    stopping_criteria=StoppingCriteriaList(ends), synced_gpus=is_sharded,
                )  # fmt: skip
            for i, answer in zip(batch, out[:, width:].tolist()):
                written[i] = _until_end([*written[i], *answer][:max_new_tokens], stop)
            are_over = [len(written[i]) == max_new_tokens or written[i][-1] in stop for i in batch]
            aside += [i for i, is_over in zip(batch, are_over) if not is_over]
            done = [i for i, is_over in zip(batch, are_over) if is_over]
            if done:
                yield done, [written[i] for i in done]
        left, answers = aside, [0] * len(prompts)  # that these are longer than was expected is known


class _MostHaveEnded(StoppingCriteria):
    """Ends a batch when at most a quarter of its answers go on, after as many steps again as the others took: what is
    put aside has to be read once more, and none waits more than twice as long as it might have."""

    def __init__(self, stop: Sequence[int], width: int):
        self._stop, self._width = torch.tensor(stop), width
        self._going_B: Tensor | None = None
        self._steps: int | None = None  # after which most had ended

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        going_B = ~torch.isin(input_ids[:, -1], self._stop.to(input_ids.device))
        self._going_B = going_B if self._going_B is None else going_B & self._going_B
        steps = input_ids.shape[1] - self._width
        if self._steps is None and int(self._going_B.sum()) <= len(input_ids) // 4:
            self._steps = steps
        ends = self._steps is not None and steps >= 2 * self._steps
        return torch.full_like(going_B, ends)


def greedy_config(stop: Sequence[int], pad: int, max_new_tokens: int) -> Any:
    """What transformers is asked for: the likeliest token, at each step, of what processors leave."""
    from transformers import GenerationConfig

    return GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(stop), pad_token_id=pad)


def _until_end(answer: list[int], stop: Sequence[int]) -> list[int]:
    """What is written up to and with the first end token; padding follows it."""
    return answer[: next((at + 1 for at, token in enumerate(answer) if token in stop), len(answer))]


def prompt_batches(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, max_tokens: float, equal: bool
) -> Iterator[list[int]]:
    """:param order: indices, those of a batch side by side. :param lengths: of each index.
    :param batch_size: indices at most of a batch. :param max_tokens: of a batch at most, unless one index has more.
    :param equal: whether all of a batch must be of one length."""
    batch: list[int] = []
    for i in order:
        longest = max(lengths[j] for j in (*batch, i))
        is_full = len(batch) == batch_size or (len(batch) + 1) * longest > max_tokens
        if batch and (is_full or (equal and lengths[i] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
