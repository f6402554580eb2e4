"""How the process ends after an error."""

from __future__ import annotations

import sys
from pkgutil import resolve_name
from typing import Any

from ftlab.base.terminal import discard_output, echo_error


def end_with(error: BaseException) -> Any:
    """Tell what the user can mend, with its exit code. :raises BaseException: anything else is a bug of ours."""
    if isinstance(error, BrokenPipeError):  # ftlab --help | head
        return discard_output(sys.stdout)
    errors = resolve_name("ftlab.errors")
    error = errors.Interrupted("Interrupted before anything was begun.") if type(error) is KeyboardInterrupt else error
    if not isinstance(error, (errors.FtlabError, OSError)):
        raise error
    echo_error(told := errors.of_system(error))
    return sys.exit(told.exit_code)
