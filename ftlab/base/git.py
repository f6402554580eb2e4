"""How git is asked, and what it tells of a checkout.

A repository is data, whoever made it: nothing that its settings name is started, no hook of it runs, and nothing that
it lacks is fetched.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ftlab.base.command import command_output

# git may refresh its index while it answers, which another git at work would stumble over.
_GIT = ("git", "--no-optional-locks", "--no-pager")
# To look into a submodule git starts another git, which obeys the submodule's own settings.
_UNENTERED = "--ignore-submodules=dirty"
_DIFF = ("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--src-prefix=a/",
         "--dst-prefix=b/", _UNENTERED)  # fmt: skip
# Set for every repository, over what it says. No protocol is called "none": each that git has is refused.
_INERT = {"core.fsmonitor": "false", "core.hooksPath": os.devnull, "core.alternateRefsCommand": ""}
_UNREACHED = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": ""}
# Sections that can have any name within them, and what of them keeps git from starting a command. Without its filter
# a file is compared as it lies in the checkout.
_NAMED = re.compile(r"(filter|hook)\.(.+)\.[^.]+", re.DOTALL)
_INERT_NAMED = {
    "filter": {"clean": "", "smudge": "", "process": "", "required": "false"},
    "hook": {"command": "true", "enabled": "false"},
}


def inert_environment(folder: Path, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment in which git starts no command that the settings of a folder's repository name.

    :param environment: what it is made of; the process's own without one.
    """
    outer = dict(os.environ if environment is None else environment)
    outer.pop("GIT_CONFIG_PARAMETERS", None)  # of ``git -c``, and stronger than what is set here
    outer |= _UNREACHED
    listed = command_output([*_GIT, "-C", str(folder), "config", "--list", "--name-only", "-z"], outer) or ""
    sections = {match.groups() for key in listed.split("\0") if (match := _NAMED.fullmatch(key))}
    settings = _INERT | {
        f"{section}.{name}.{key}": value
        for section, name in sorted(sections)
        for key, value in _INERT_NAMED[section].items()
    }
    count = outer.get("GIT_CONFIG_COUNT", "")
    first = int(count) if count.isdigit() else 0
    for place, (key, value) in enumerate(settings.items(), first):
        outer |= {f"GIT_CONFIG_KEY_{place}": key, f"GIT_CONFIG_VALUE_{place}": value}
    return outer | {"GIT_CONFIG_COUNT": str(first + len(settings))}


def run_git(folder: Path, *words: str) -> str | None:
    """What ``git words`` prints in a folder; None where it fails, or where there is no git."""
    return command_output([*_GIT, "-C", str(folder), *words], inert_environment(folder))


def head_commit(folder: Path) -> str | None:
    """The hash of the commit that is checked out; None outside a repository, or without git."""
    return run_git(folder, "rev-parse", "HEAD")


def is_tracked(folder: Path, file: str) -> bool:
    return run_git(folder, "ls-files", "--error-unmatch", file) is not None


def has_changes(folder: Path) -> bool:
    """Whether tracked files differ from the commit."""
    return bool(run_git(folder, "status", "--porcelain", "--untracked-files=no", _UNENTERED))


def untracked_files(folder: Path) -> list[str]:
    """Files and folders that are neither tracked nor ignored, from the repository's root."""
    listed = run_git(folder, "ls-files", "--others", "--exclude-standard", "--directory", "--full-name") or ""
    return [name for name in listed.split("\n") if name]


def changes_here(limit: int) -> tuple[str, list[str]]:
    """Of ``git diff`` in the current folder: the SHA-256 of all of it, and its lines.

    :param limit: bytes that are kept; of a longer diff the last line says that it was cut.
    """
    digest, kept, size = hashlib.sha256(), bytearray(), 0
    environment = inert_environment(Path())
    with subprocess.Popen(
        [*_GIT, *_DIFF], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
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
