"""Weights & Biases: offline in the run directory, or to its server where there is a key."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ftlab.engine.trackers.base import TrackedRun

_BEGINS, _ENDS = 60, 300  # seconds that a server may take; what it has not taken by then is still on the disk


class Wandb:
    """Offline, a run that goes on is written anew and whole, in place of what was kept before. Online, it is the same
    run by its id: the server has the steps up to one, and is sent those after it.
    """

    def __init__(self, about: TrackedRun) -> None:
        self._about = about
        self._first = 0  # step that the server does not have

    def begin(self) -> str | None:
        # The service of a process that started this one would hold a killed run for one that is still at work.
        os.environ.pop("WANDB_SERVICE", None)
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self._wandb = wandb
        about, why_offline = self._about, ""
        if "WANDB_MODE" in os.environ:
            mode: Any = os.environ["WANDB_MODE"]
        else:
            # Never asks, and stays on this machine: it only looks for a key.
            mode = "online" if wandb.login(prompt=False) else "offline"
            why_offline = "no WANDB_API_KEY and no wandb login: "
        if mode == "offline":
            for part in (about.folder / "wandb").glob(f"offline-run-*-{about.key}"):
                shutil.rmtree(part)
        self._run = wandb.init(
            project=about.project,
            name=about.name,
            id=about.key,
            group=os.environ.get("WANDB_RUN_GROUP") or about.sweep,
            resume="allow",
            dir=str(about.folder),
            config={**about.config, "environment": about.environment},
            mode=mode,
            reinit="create_new",
            # The command line, the terminal and the address of the repository may have secrets in them.
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                init_timeout=_BEGINS,
                finish_timeout=_ENDS,
                finish_timeout_raises=True,
            ),
        )
        if mode != "offline":
            self._first = self._run.step if self._run.resumed else 0
            return self._run.url
        return f"{why_offline}offline; to send it: wandb sync {shlex.quote(self._run.dir.removesuffix('/files'))}"

    def log(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        if step >= self._first:
            self._run.log({**values, "_timestamp": seconds}, step=step)

    def document(self, name: str, step: int, text: str) -> None:
        path = self._about.folder / "wandb" / "documents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self._run.save(path, base_path=self._about.folder / "wandb" / "documents", policy="now")

    def samples(self, name: str, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        if step < self._first:
            return
        columns: Any = ["prompt", "expected", "answer"]
        table = self._wandb.Table(columns=columns, data=[[sample[c] for c in columns] for sample in samples])
        self._run.log({f"samples/{name}": table}, step=step)

    def finish(self, status: str) -> None:
        self._run.finish(exit_code=0 if status in ("finished", "stopped") else 1)
