"""grpo's prompts: what TRL samples from, in which order, and whether they will do."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset
from trl.trainer.utils import RepeatSampler

from ftlab.data.prompts import PromptRow
from ftlab.errors import ConfigError, Mistake
from ftlab.schema import GrpoStage, Run


class Prompts(RepeatSampler):
    """TRL's order, drawn anew from seed and epoch: TRL draws each epoch from where the last one left its generator,
    which a resumed run does not know. And with every prompt in it: where TRL leaves out an epoch's last ones, because
    they are too few for a generation, its first ones come again and fill it up."""

    def set_epoch(self, epoch: int) -> None:
        assert self.seed is not None
        self.generator.manual_seed(self.seed + epoch)

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.num_samples, generator=self.generator).tolist()
        order += order[: -len(order) % self.batch_size]
        for start in range(0, len(order), self.batch_size):
            for _ in range(self.repeat_count):
                for index in order[start : start + self.batch_size]:
                    yield from [index] * self.mini_repeat_count

    def __len__(self) -> int:
        prompts = self.num_samples + -self.num_samples % self.batch_size
        return prompts * self.mini_repeat_count * self.repeat_count


def dataset(rows: Sequence[PromptRow]) -> Dataset:
    """Return the data set that TRL samples from: a number for each prompt, which TRL takes for text and passes on."""
    return Dataset.from_dict({"prompt": [str(index) for index in range(len(rows))]})


def check_rows(run: Run, rows: Sequence[PromptRow]) -> None:
    """:raises ConfigError: a prompt leaves no room for ``stage.max_new_tokens``."""
    assert isinstance(run.stage, GrpoStage)
    longest = max(len(row.ids) for row in rows)
    room = run.model.architecture.max_positions - longest
    if run.stage.max_new_tokens > room:
        reason = (
            f"the longest prompt has {longest} tokens, and model={run.model.name} a context of "
            f"{run.model.architecture.max_positions}; use {room} or less, or a smaller data.max_length."
        )
        raise ConfigError([Mistake("stage.max_new_tokens", reason, run.stage.max_new_tokens)])


def check_count(run: Run, count: int, needed: int) -> None:
    """:param count: prompts that train. :param needed: prompts of one generation.
    :raises ConfigError: there are too few.
    """
    if count < needed:
        reason = (
            f"one generation answers {needed} prompts, and {count} train. Lower train.gradient_accumulation_steps, "
            "train.micro_batch_size or stage.steps_per_generation."
        )
        raise ConfigError([Mistake("data", reason, run.data.name or run.data.path)])
    if count % needed:
        warnings.warn(
            f"{-count % needed} of {count} prompts come twice in each epoch, others each time: they fill up its last "
            f"generation, which answers {needed} prompts.",
            stacklevel=2,
        )
