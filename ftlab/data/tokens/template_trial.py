"""A chat template tried out where it can do no harm.

A template is somebody else's program. jinja2's sandbox keeps it from files, but not from running for ever (loops within
loops) nor from taking all memory (``'x' * 10**11``, a text that doubles in a loop), and a single operation of that
kind cannot be interrupted from within its process. So a template that does not ship writes a few short turns in a
process of its own first, whose computing time and memory the operating system limits: no signal reaches this
process, in whichever of its threads that is. The child knows jinja2 alone, to start in a tenth of a second; what it
does not know of transformers' additions is no failure here, and judged where conversations are rendered. There
:mod:`ftlab.data.tokens.time_limit` stands guard over what depends on a row.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 5  # of computing, for the few turns of the trial
MEMORY = 1 << 30  # bytes, beyond what the interpreter has
LENGTH = 1 << 22  # characters that the few turns may become
_WALL = 60.0  # of a machine that is busy otherwise, or has no limits of this kind
_TURNS = [
    {"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Norway?"}, {"role": "assistant", "content": "Oslo."},
]  # fmt: skip
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_SYSTEM = {"role": "system", "content": "You are terse."}


@functools.lru_cache
def trial_problem(source: str) -> str | None:
    """Return why a template must not be rendered here, as the end of a sentence; None where nothing is found."""
    # The file and not the module: nothing of this package is needed, and nothing of the current folder is imported.
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, input=source, capture_output=True, timeout=_WALL, check=False, encoding="utf-8")
    except subprocess.TimeoutExpired:
        return f"does not end: it was stopped after {_WALL:.0f} s"
    if done.returncode == 0:
        return None
    if done.returncode == 1 and not done.stderr.startswith("Traceback"):
        return done.stderr.strip()
    if done.returncode == -_SIGXCPU:
        return f"does not end: it was stopped after {SECONDS} s of computing"
    return f"ends the process that renders it ({_last_line(done.stderr) or f'code {done.returncode}'})"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


_SIGXCPU = 24  # on Linux and macOS


def _set_limits() -> None:
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + SECONDS
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    except (OSError, ValueError):  # macOS limits no address space
        pass


def _render(source: str) -> str | None:
    """Render the turns; the problem, if there is one that is the template's and not the turns'."""
    from jinja2 import ext, nodes
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Marks(ext.Extension):
        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Marks, ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "2026-01-01"}
    _set_limits()
    length = 0
    for turns, asks in ((_TURNS, False), ([_SYSTEM, *_TURNS], False), (_TURNS[:3], True)):
        try:
            for piece in environment.from_string(source).generate(
                messages=turns, tools=None, documents=None, add_generation_prompt=asks, **_TOKENS
            ):
                length += len(piece)
                if length > LENGTH:
                    return f"makes more than {LENGTH:,} characters of a few short turns"
        except MemoryError:
            return f"takes more than {MEMORY >> 30} GiB of memory for a few short turns"
        except RecursionError:
            return "calls itself without end, or is nested too deep"
        except ArithmeticError as error:
            return f"fails on a few short turns: {error}"
        except Exception:  # of what the turns are, or of what only transformers knows
            continue
    return None


if __name__ == "__main__":
    sys.exit(_render(sys.stdin.buffer.read().decode()))  # a problem goes to stderr
