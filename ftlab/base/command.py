"""Short commands of the system, of which only what they print is wanted."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence


def command_output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str | None:
    """What a command prints, without the white space around it; None where it fails or is not there.

    :param environment: the command's, in place of the process's own.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, env=environment)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
