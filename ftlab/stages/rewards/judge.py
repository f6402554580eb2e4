"""What the policy's completions are worth, as ppo and grpo ask it: functions and reward models, in a weighted sum."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftlab.data.prompts import PromptRow
from ftlab.model.guests import GuestAdapters
from ftlab.schema import GrpoStage, PpoStage, Run
from ftlab.stages.rewards import resolve
from ftlab.stages.rewards.scoring import Reward, Scores, score

EVALUATED = 4  # answers sampled to each validation prompt


class RewardScorer:
    """The rewards of a run.

    :param phases: this run's ``phases/``, where a reward model may be an earlier phase.
    :param policy: on its device. :param guests: of the policy's base; None where it has no adapter.
    :raises ConfigError: a reward that does not exist.
    :raises NotReadyError: a reward model that reads other tokens than the policy writes.
    """

    def __init__(self, run: Run, phases: Path, policy: Any, tokenizer: Any, guests: GuestAdapters | None):
        stage = run.stage
        assert isinstance(stage, PpoStage | GrpoStage)
        self._on_error, self._weights = stage.on_reward_error, stage.reward_weights

        def model(spec: str) -> Callable[[str], Callable[..., Any]]:
            from ftlab.stages.rewards.models import load

            return lambda named: load(run, named, f"{spec}{named}", phases, policy, tokenizer, guests)

        self.rewards: list[Reward]
        if isinstance(stage, PpoStage) and stage.reward_model is not None:
            self._weights = None
            named = stage.reward_model
            self.rewards = [Reward(f"{resolve.MODEL}:{named}", model("stage.reward_model=")(named))]
        else:
            self.rewards = resolve.resolve(stage.rewards, phases, model(f"{resolve.KEY}={resolve.MODEL}:"))

    def __call__(
        self,
        rows: Sequence[PromptRow],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        only: Reward | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Scores:
        """What each completion of its row's prompt is worth.

        :param completion_ids: with the end token. :param only: one of the rewards, unweighted; None: all of them.
        :param advance: called with 1 after each reward.
        :raises RewardError: a reward failed, under ``stage.on_reward_error=stop``.
        """
        names = dict.fromkeys(name for row in rows for name in row.columns)
        columns = {name: [row.columns.get(name) for row in rows] for name in names}
        columns |= {"prompt_ids": [row.ids for row in rows], "completion_ids": list(completion_ids)}
        found = score(
            self.rewards if only is None else [only],
            self._weights if only is None else None,
            [row.messages for row in rows],
            completions,
            [row.answer for row in rows],
            columns,
            self._on_error,
            [row.where for row in rows],
            advance,
        )
        for message in found.failures.values():
            warnings.warn(message, stacklevel=2)  # which the run's log.txt keeps
        return found
