"""What a tracker is, and the names that its users expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Keys of a line of metrics.jsonl that say when it was logged, and so belong to a step but not to an evaluation.
_WHEN = ("epoch", "tokens", "total_tokens", "seconds")
_NEVER = ("phase", "global_step", "time")


@dataclass(frozen=True)
class TrackedRun:
    """The run that is followed.

    :param folder: its run directory. :param project: ``tracker.project``.
    :param key: the same at every start of the run, and no other run's: what it is found by in a tracker.
    :param store: where MLflow keeps it unless MLFLOW_TRACKING_URI says otherwise.
    :param config: of ``run.yaml``, without secrets. :param environment: versions, machine, commit.
    :param sweep: the name of the sweep that it is a job of, whose runs are a group; None: it is of none.
    """

    folder: Path
    project: str
    key: str
    store: str
    config: dict[str, Any]
    environment: dict[str, Any]
    sweep: str | None = None

    @property
    def name(self) -> str:
        return self.folder.resolve().name


class Tracker(Protocol):
    """Constructed with what is written about the run; imports its package only then. Steps are the run's global ones.

    After :meth:`begin` it is given everything that the run has logged so far, in the order of the steps, and takes what
    it does not have yet. Any method may raise: it is then told and left alone.
    """

    def __init__(self, about: TrackedRun) -> None: ...

    def begin(self) -> str | None:
        """Open the run, or continue it. Returns what the user should know, on one line."""

    def log(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """:param values: by their names in trackers, as of :func:`scalars`. :param seconds: since 1970, when it was."""

    def document(self, name: str, step: int, text: str) -> None:
        """A text, JSON or YAML, named like a file: ``run.yaml``, ``data/sft.json``."""

    def samples(self, name: str, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Generations. :param samples: ``prompt``, ``expected`` and ``answer`` of each."""

    def finish(self, status: str) -> None:
        """:param status: as in the manifest: finished, stopped, paused, interrupted or failed."""


def scalars(line: Mapping[str, Any], has_phases: bool) -> dict[str, float]:
    """The numbers in a line of ``metrics.jsonl`` under the names that transformers gives them in a tracker:
    ``train/loss``, ``eval/loss``, ``golden/exact_match``. No two lines of a step have a name in common.

    :param has_phases: whether the run has several phases. Each measures on data of its own, and the last measure of one
        and the first of the next are of the same step: they are ``eval/foundation/loss``.
    """
    is_training = "loss" in line
    phase = f"{line['phase']}/" if has_phases else ""
    found = {}
    for key, value in line.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or key in _NEVER:
            continue
        if key == "step":
            key = "phase_step"
        if key in (*_WHEN, "phase_step") and not is_training:
            continue
        for prefix, group in (
            ("eval_", f"eval/{phase}"),
            ("golden_", f"golden/{phase}"),
            ("gpu_", "gpu/"),
            ("", "train/"),
        ):
            if key.startswith(prefix):
                found[group + key.removeprefix(prefix)] = float(value)
                break
    return found
