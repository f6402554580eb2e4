"""What a user can read of each rollout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ftlab.data.prompts import PromptRow
from ftlab.rundir.files import write_atomic


def write_rollout(path: Path, number: int, step: int, rows: Sequence[tuple[PromptRow, str, float, float]]) -> None:
    """Put a rollout behind those before it.

    :param step: before which it was made. :param rows: prompts with their answers, scores and KL.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    # A run that goes on from an earlier checkpoint writes the same rollouts again.
    lines = [line for line in lines if json.loads(line)["rollout"] < number]
    for one, text, score, kl in rows:
        entry = {
            "rollout": number, "step": step, "prompt": one.messages[-1]["content"], "expected": one.answer,
            "answer": text, "reward": None if score != score else score, "kl": kl,
        }  # fmt: skip
        lines.append(json.dumps(entry, ensure_ascii=False))
    write_atomic(path, "".join(f"{line}\n" for line in lines))
