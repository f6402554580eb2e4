"""The rewards of ``stage.rewards``, for ppo and grpo. Nothing here imports torch.

=================== ==================================================================================================
exact_match         1 if the completion is the answer, white space at both ends aside
numeric_answer      1 if the completion's last number is the answer's; that in its last ``\\boxed{}``, if it has one
contains_answer     1 if the answer is in the completion as words of their own, in any case and spacing
format:REGEX        1 if the whole completion, white space at both ends aside, matches; ``.`` matches line ends too
length:N            1 at N characters, falling evenly to 0 at none and at 2 N
path.py:function    a function of a Python file, called as ``function(prompts=, completions=, answers=, **columns)``;
                    TRL's reward functions, ``(completions, **kwargs)`` with columns by name, work as they are
model:RUN           the score that a reward model gives, RUN being a run directory of ``stage=rm`` or an earlier phase
=================== ==================================================================================================

A reward function gives one number for each completion, or None where it has nothing to say. Beside the rows' columns it
may ask for ``prompt_ids`` and ``completion_ids``, the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ftlab.base.user_functions import find_function, load_file
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import GrpoStage, PpoStage
from ftlab.stages.rewards import find
from ftlab.stages.rewards.functions import FACTORIES, FUNCTIONS
from ftlab.stages.rewards.scoring import Reward

KEY = "stage.rewards"
MODEL = "model"
_KNOWN = f"{', '.join(FUNCTIONS)}, format:REGEX, length:N, path.py:function or {MODEL}:RUN"

ToFunction = Callable[[str], Callable[..., Any]]


def check(names: Sequence[str], weights: Sequence[float] | None = None, phases: Path | None = None) -> list[Mistake]:
    """Every mistake in ``stage.rewards`` and ``stage.reward_weights`` that shows without running anybody's code.

    :param phases: the run's own ``phases/``; None while there is none.
    """
    found = [_resolve(name, phases, None, None) for name in names]
    mistakes = [reward for reward in found if isinstance(reward, Mistake)]
    twice = sorted({name for name in names if names.count(name) > 1})
    mistakes += [Mistake(KEY, "is there more than once; once is enough, with a weight.", name) for name in twice]
    if weights is not None and len(weights) != len(names):
        reason = f"{len(weights)} weights for {len(names)} rewards ({', '.join(names)}); give each one, or null."
        mistakes.append(Mistake("stage.reward_weights", reason, list(weights)))
    return mistakes


def check_stage(stage: PpoStage | GrpoStage) -> list[Mistake]:
    """Every mistake in what a stage is to reward, as far as it shows before anything is loaded."""
    if isinstance(stage, PpoStage) and stage.reward_model is not None:
        wrong = find.reward_model_problem(stage.reward_model)
        return [Mistake("stage.reward_model", wrong, stage.reward_model)] if wrong else []
    return check(stage.rewards, stage.reward_weights)


def resolve(names: Sequence[str], phases: Path | None = None, model: ToFunction | None = None) -> list[Reward]:
    """The rewards of ``stage.rewards``, in order. A Python file is run once, from where it is.

    :param model: loads the reward model that a run directory or a phase has; None leaves a stand-in.
    :raises ConfigError: all that is wrong with the names, the files and the functions.
    """
    mistakes = check(names, None, phases)
    if mistakes:
        raise ConfigError(mistakes)
    files: dict[Path, ModuleType] = {}
    found = [_resolve(name, phases, partial(load_file, files, "rewards"), model) for name in names]
    mistakes = [reward for reward in found if isinstance(reward, Mistake)]
    if mistakes:
        raise ConfigError(mistakes)
    return [reward for reward in found if isinstance(reward, Reward)]


def _resolve(
    name: str, phases: Path | None, load: Callable[[Path], ModuleType] | None, model: ToFunction | None
) -> Reward | Mistake:
    head, colon, rest = name.partition(":")
    if name in FUNCTIONS:
        return Reward(name, FUNCTIONS[name])
    if head in FACTORIES:
        made = FACTORIES[head](rest)
        return Mistake(KEY, made, name) if isinstance(made, str) else Reward(name, made)
    if head == MODEL:
        wrong = find.reward_model_problem(rest, phases) if rest else f"name a run directory of stage=rm: {MODEL}:RUN"
        return Mistake(KEY, wrong, name) if wrong else Reward(name, model(rest) if model else len)
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        found = find_function(Path(path).expanduser(), function, load)
        return Mistake(KEY, found[0], name, found[1]) if isinstance(found, tuple) else Reward(name, found)
    if name.endswith(".py"):
        return Mistake(KEY, f"name a function of that file too: {name}:FUNCTION", name)
    known = [*FUNCTIONS, *FACTORIES, MODEL]
    near = [f"{word}:{rest}" if word in (*FACTORIES, MODEL) and colon else word for word in nearest(head, known)]
    return Mistake(KEY, f"there is no such reward; there are {_KNOWN}.", name, near)
