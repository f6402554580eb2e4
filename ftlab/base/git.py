"""How git is asked, and what it tells of a checkout."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from ftlab.base.command import command_output

# git may refresh its index while it answers, which another git at work would stumble over.
_GIT = ("git", "--no-optional-locks")
# Nothing that a repository's own settings name is run or obeyed.
_DIFF = ("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--src-prefix=a/",
         "--dst-prefix=b/")  # fmt: skip


def run_git(folder: Path, *words: str) -> str | None:
    """What ``git words`` prints in a folder; None where it fails, or where there is no git."""
    return command_output([*_GIT, "-C", str(folder), *words])


def head_commit(folder: Path) -> str | None:
    """The hash of the commit that is checked out; None outside a repository, or without git."""
    return run_git(folder, "rev-parse", "HEAD")


def is_tracked(folder: Path, file: str) -> bool:
    return run_git(folder, "ls-files", "--error-unmatch", file) is not None


def has_changes(folder: Path) -> bool:
    """Whether tracked files differ from the commit."""
    return bool(run_git(folder, "status", "--porcelain", "--untracked-files=no"))


def untracked_files(folder: Path) -> list[str]:
    """Files and folders that are neither tracked nor ignored, from the repository's root."""
    listed = run_git(folder, "ls-files", "--others", "--exclude-standard", "--directory", "--full-name") or ""
    return [name for name in listed.split("\n") if name]


def changes_here(limit: int) -> tuple[str, list[str]]:
    """Of ``git diff`` in the current folder: the SHA-256 of all of it, and its lines.

    :param limit: bytes that are kept; of a longer diff the last line says that it was cut.
    """
    digest, kept, size = hashlib.sha256(), bytearray(), 0
    with subprocess.Popen([*_GIT, *_DIFF], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while block := process.stdout.read(1 << 16):
            digest.update(block)
            size += len(block)
            kept += block[: max(limit - len(kept), 0)]
    lines = bytes(kept).decode("utf-8", errors="replace").splitlines(keepends=True)
    if size > len(kept):
        lines = [*lines[:-1], f"# cut here: {size:,} bytes in all, of which {limit:,} are kept\n"]
    return digest.hexdigest(), lines


def environment_without(prefixes: tuple[str, ...]) -> dict[str, str]:
    """The process's environment without the variables of these prefixes, through which a user or an outer git could
    point git at another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
