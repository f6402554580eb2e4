"""From a run directory to the policy that the run has trained: for whatever works with a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.data.tokens.templates import Template
from ftlab.errors import RunDirError
from ftlab.model.remote_code import untrusted
from ftlab.policy.build import build_model
from ftlab.policy.lineage import ending_config
from ftlab.policy.tokens import load_tokens
from ftlab.rundir.directory import RunDir
from ftlab.rundir.sources import policy_of_run
from ftlab.schema import Run


@dataclass(frozen=True)
class TrainedPolicy:
    """What a run has trained.

    :param config: of the phase that trained it last, with the weights that it ended with.
    :param model: in evaluation mode, and nothing of it trains. :param tokenizer: as the run used it.
    :param template: of conversations; None after ``stage=pt``. :param stop: ids at which an answer ends.
    """

    config: Run
    model: Any
    tokenizer: Any
    template: Template | None
    stop: list[int]


def load_policy(folder: Path) -> TrainedPolicy:
    """Load the policy that the last phase of a run has trained, with the template and stop tokens of its training.

    :param folder: the run directory.
    :raises RunDirError: there is no run, it has not finished training, or it trained a reward model.
    """
    try:
        phase = policy_of_run(folder)
    except RunDirError as error:
        raise RunDirError(f"{folder} {error}.") from None
    run_dir = RunDir.open(folder)
    config = untrusted(ending_config(run_dir, run_dir.plan(), phase.name))
    tokens = load_tokens(config)
    model, _ = build_model(config, tokens)
    model.eval().requires_grad_(False)
    return TrainedPolicy(config, model, tokens.tokenizer, tokens.template, tokens.stop)
