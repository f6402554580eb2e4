"""How a command line ends, in the process that asks: what its imports take is paid once."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Sequence


def end_of(words: Sequence[str]) -> tuple[int, str, str]:
    """The exit status of ``ftlab words``, what it printed, and what it printed of errors."""
    from ftlab.main import main

    before, sys.argv = sys.argv, ["ftlab", *words]
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            status = 1
            traceback.print_exc()
        finally:
            sys.argv = before
    return status, out.getvalue(), err.getvalue()
