"""Where a run comes from: the versions, the machine and the code of each of its starts, in the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ftlab import __version__
from ftlab.base.redaction import without_secrets
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.plan import Plan

PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "hydra-core",
)  # fmt: skip
DIFF_BYTES = 1 << 20  # of git.diff; what is longer is cut, and said to be
_UNTRACKED = 100  # files named
_HERE = Path(__file__).resolve().parents[1]  # this package


def begin(run_dir: RunDir, plan: Plan) -> None:
    """Write down a start: the run is running. What it was started with first stays in the manifest's own keys; each
    start has its time, and what differs from the first. ``outputs/latest`` points here, unless the folder was chosen.
    """
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    found, diff = _environment()
    manifest = run_dir.manifest()
    starts = manifest.get("starts", [])
    differs: dict[str, Any] = {}
    if starts:
        before = {key: _without_file(manifest.get(key)) for key in found}
        differs = {key: _differing(before[key], value) for key, value in found.items() if before[key] != value}
    if diff and (not starts or "git" in differs):
        name = f"git-{len(starts) + 1}.diff" if starts else "git.diff"
        write_atomic(run_dir.path / name, diff)
        (differs if starts else found)["git"]["diff"] = name
    run_dir.update_manifest(
        **({} if starts else found),
        status="running",
        error=None,
        rerun=shlex.join(["ftlab", *plan.overrides]),
        folder=str(Path.cwd()),
        began=manifest.get("began", now),
        starts=[*starts, {"time": now, **differs}],
    )
    if plan.phases[0].config.run.dir is None and run_dir.path.absolute().parent.name == "outputs":
        run_dir.be_latest()


def _without_file(value: Any) -> Any:
    """What is known of a repository, without where its changes were written."""
    return {key: one for key, one in value.items() if key != "diff"} if isinstance(value, dict) else value


def _differing(first: Any, value: Any) -> Any:
    """Of a mapping, the keys whose values are not the first start's."""
    if isinstance(first, dict) and isinstance(value, dict):
        return {key: one for key, one in value.items() if first.get(key) != one}
    return value


def _environment() -> tuple[dict[str, Any], str]:
    """Versions, machine and code; and the changes that the code's commit does not have."""
    own = _own_code()
    git, diff = _repository()
    found = {
        "ftlab": __version__,
        "ftlab_git": own,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": _machine(),
        "git": git,
    }
    return found, diff


def _version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- the machine -----------------------------------------------------------------------------------------------------


def _machine() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {
        "system": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),  # sums are cut otherwise among other numbers of them
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": "cpu",
    }
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name(0)
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
        found["driver"] = _driver()
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(named, "") or platform.machine()


def _driver() -> str | None:
    said = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return said.split("\n")[0].strip() or None if said else None


# --- the code --------------------------------------------------------------------------------------------------------


def _own_code() -> dict[str, Any] | None:
    """The commit of ftlab itself, where that is known: of its checkout, or of what pip installed."""
    if _git(_HERE, "ls-files", "--error-unmatch", "__init__.py") is not None:
        return {"commit": _git(_HERE, "rev-parse", "HEAD"), "dirty": bool(_git(_HERE, "status", *_TRACKED))}
    try:
        written = metadata.distribution("ftlab").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None  # a plain copy of the sources
    commit = json.loads(written).get("vcs_info", {}).get("commit_id") if written else None
    return {"commit": commit, "dirty": False} if commit else None


_TRACKED = ("--porcelain", "--untracked-files=no")
# Nothing that a repository's own settings name is run or obeyed.
_DIFF = ("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--src-prefix=a/",
         "--dst-prefix=b/")  # fmt: skip


def _repository() -> tuple[dict[str, Any] | None, str]:
    """Of the folder that the run was started in: the commit, whether tracked files were changed, a hash of the changes;
    and the changes themselves. None outside a repository, or without git.
    """
    here = Path()
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return None, ""
    is_dirty = bool(_git(here, "status", *_TRACKED))
    found: dict[str, Any] = {"commit": commit, "dirty": is_dirty}
    if not is_dirty:
        return found, ""
    sha256, lines = _changes()
    untracked = (_git(here, "ls-files", "--others", "--exclude-standard", "--directory", "--full-name") or "").split(
        "\n"
    )
    notes = [f"# not tracked: {name}\n" for name in untracked[:_UNTRACKED] if name]
    return {**found, "diff_sha256": sha256}, "".join([*notes, *without_secrets(lines)])


def _changes() -> tuple[str, list[str]]:
    """Of ``git diff``: the hash of all of it, and its lines, as many as there is room for."""
    digest, kept, size = hashlib.sha256(), bytearray(), 0
    with subprocess.Popen(
        ["git", "--no-optional-locks", *_DIFF], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        while block := process.stdout.read(1 << 16):
            digest.update(block)
            size += len(block)
            kept += block[: max(DIFF_BYTES - len(kept), 0)]
    lines = bytes(kept).decode("utf-8", errors="replace").splitlines(keepends=True)
    if size > len(kept):
        lines = [*lines[:-1], f"# cut here: {size:,} bytes in all, of which {DIFF_BYTES:,} are kept\n"]
    return digest.hexdigest(), lines


def _git(folder: Path, *words: str) -> str | None:
    return _output(["git", "--no-optional-locks", "-C", str(folder), *words])


def _output(command: list[str]) -> str | None:
    """What a command says; None where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def differing_starts(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The time of every start that was not like the first, and what differed."""
    for start in manifest.get("starts", []):
        differs = {key: value for key, value in start.items() if key != "time"}
        if differs:
            yield start["time"], differs
