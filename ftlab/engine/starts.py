"""Where a run comes from: the versions, the machine and the code of each of its starts, in the manifest."""

from __future__ import annotations

import functools
import os
import platform
import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ftlab import __version__
from ftlab.base import git, machine
from ftlab.base.redaction import redact_diff
from ftlab.distributed.world import visible_gpus
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Plan
from ftlab.rundir.sweep import is_sweep

PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "hydra-core",
    "liger-kernel",
)  # fmt: skip
_HARMLESS = ("memory_gb", "cpus", "system")  # of the machine: nothing is computed otherwise for them
DIFF_BYTES = 1 << 20  # of git.diff; what is longer is cut, and said to be
_UNTRACKED = 100  # files named
_HERE = Path(__file__).resolve().parents[1]  # this package


def record_start(run_dir: RunDir, plan: Plan, manifest: Manifest) -> str | None:
    """Write down a start: the run is running. What it was started with first stays in the manifest's own keys; each
    start has its time, and what differs from the first. ``outputs/latest`` points here, unless a user chose the folder.

    :returns: a line on what of the machine and the packages differs from the first start, where that may move a loss.
    """
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    found, diff = _environment()
    starts = manifest.values.get("starts", [])
    differs: dict[str, Any] = {}
    if starts:
        before = {key: _without_file(manifest.values.get(key)) for key in found}
        differs = {key: _differences(before[key], value) for key, value in found.items() if before[key] != value}
    if diff and (not starts or "git" in differs):
        path = run_dir.git_diff(len(starts) + 1)
        write_atomic(path, diff)
        (differs if starts else found)["git"]["diff"] = path.name
    manifest.record(
        **({} if starts else found),
        status="running",
        error=None,
        rerun=shlex.join(["ftlab", *plan.overrides]),
        folder=str(Path.cwd()),
        began=manifest.values.get("began", now),
        starts=[*starts, {"time": now, **differs}],
    )
    is_chosen = plan.phases[0].config.run.dir is not None
    if is_chosen and ("reproduces" in manifest.values or any(map(is_sweep, run_dir.path.absolute().parents[:2]))):
        is_chosen = False  # the command made it up
    if not is_chosen and run_dir.is_below_outputs:
        run_dir.link_latest()
    return _told(manifest.values, differs) if starts else None


def _told(first: dict[str, Any], differs: dict[str, Any]) -> str | None:
    """In one line: what computes otherwise than at the first start."""
    parts = []
    for group in ("machine", "packages"):
        for key, value in (differs.get(group) or {}).items():
            if key not in _HARMLESS:
                was, now = ("none" if one is None else one for one in ((first.get(group) or {}).get(key), value))
                parts.append(f"{key} {was} then, {now} now")
    if not parts:
        return None
    return f"Not as at its first start: {', '.join(parts)}. The last digits of a loss may be others."


def _without_file(value: Any) -> Any:
    """What is known of a repository, without where its changes were written."""
    return {key: one for key, one in value.items() if key != "diff"} if isinstance(value, dict) else value


def _differences(first: Any, value: Any) -> Any:
    """Of a mapping, the keys whose values are not the first start's."""
    if isinstance(first, dict) and isinstance(value, dict):
        return {key: one for key, one in value.items() if first.get(key) != one}
    return value


def _environment() -> tuple[dict[str, Any], str]:
    """Versions, machine and code; and the changes that the code's commit does not have."""
    repository, diff = _repository()
    found = {
        "ftlab": __version__,
        "ftlab_git": _code_of_ftlab(),
        "python": platform.python_version(),
        "packages": {name: machine.package_version(name) for name in PACKAGES},
        "machine": _machine(),
        "git": repository,
    }
    return found, diff


# --- the machine -----------------------------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {
        "system": platform.platform(),
        "cpu": machine.cpu_name(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),  # sums are cut otherwise among other numbers of them
        "memory_gb": round(machine.memory_gib(), 1),
        "device": "cpu",
    }
    if gpus := visible_gpus():
        found["device"] = gpus[0].name
        found["gpus"] = [gpu.name for gpu in gpus]
        found["cuda"] = torch.version.cuda
        found["driver"] = machine.gpu_driver()
    return found


# --- the code --------------------------------------------------------------------------------------------------------


@functools.cache
def _code_of_ftlab() -> dict[str, Any] | None:
    """The commit of ftlab itself, where that is known: of its checkout, or of what pip installed. A process that trains
    several runs looks once, at its first: the code that it has is what it imported."""
    if git.is_tracked(_HERE, "__init__.py"):
        return {"commit": git.head_commit(_HERE), "dirty": git.has_changes(_HERE)}
    commit = machine.installed_commit("ftlab")
    return {"commit": commit, "dirty": False} if commit else None


def _repository() -> tuple[dict[str, Any] | None, str]:
    """Of the folder that the run was started in: the commit, whether tracked files were changed, a hash of the changes;
    and the changes themselves. None outside a repository, or without git.
    """
    here = Path()
    commit = git.head_commit(here)
    if commit is None:
        return None, ""
    is_dirty = git.has_changes(here)
    found: dict[str, Any] = {"commit": commit, "dirty": is_dirty}
    if not is_dirty:
        return found, ""
    sha256, lines = git.changes_here(DIFF_BYTES)
    notes = [f"# not tracked: {name}\n" for name in git.untracked_files(here)[:_UNTRACKED]]
    return {**found, "diff_sha256": sha256}, "".join([*notes, *redact_diff(lines)])


def differing_starts(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The time of every start that was not like the first, and what differed."""
    for start in manifest.get("starts", []):
        differs = {key: value for key, value in start.items() if key != "time"}
        if differs:
            yield start["time"], differs
