"""Short commands of the system, of which only what they print is wanted."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def command_output(command: Sequence[str]) -> str | None:
    """What a command prints, without the white space around it; None where it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
