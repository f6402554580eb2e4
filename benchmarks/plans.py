"""What ``ftlab plan`` takes and says for every shipped model x method x hardware, as docs/memory.md has it.

    python benchmarks/plans.py                     # all of them, in one process
    python benchmarks/plans.py --commands 12       # and so many whole commands, each in a process of its own
    python benchmarks/plans.py --models llama2_7b tiny --hardware cpu 8xh100

Timed is all that the command does once Python has started: the config is composed and validated, the plan made, memory
predicted with the cheapest changes, disk and what is missing looked up, and the lines are written. The clock is that of
the CPU, so that a busy machine is not measured. It ends with 1 where one takes 2 s or more, or is refused.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import Any

LIMIT = 2.0  # seconds


def main() -> None:
    models, methods, hardware = (shipped_choices(group) for group in ("model", "method", "hardware"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=models, choices=models, metavar="MODEL")
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods)
    parser.add_argument("--hardware", nargs="+", default=hardware, choices=hardware)
    parser.add_argument("--stages", nargs="+", default=["sft"], choices=shipped_choices("stage"))
    parser.add_argument("--commands", type=int, default=0, help="how many, drawn with a seed, to run as whole commands")
    options = parser.parse_args()
    lines = list(command_lines(options))
    found = [planned(line) for line in lines]
    refused = [f"{' '.join(line)}: {verdict}" for line, (_, verdict) in zip(lines, found) if verdict not in VERDICTS]
    slowest = report("in one process", lines, [seconds for seconds, _ in found])
    print("  " + ", ".join(f"{count:,} {verdict}" for verdict, count in Counter(v for _, v in found).most_common()))
    if options.commands:
        drawn = random.Random(0).sample(lines, min(options.commands, len(lines)))
        slowest = max(slowest, report("whole commands", drawn, [command_seconds(line) for line in drawn]))
    for line in refused:
        print(f"refused: {line}")
    sys.exit(slowest >= LIMIT or bool(refused))


VERDICTS = ("fits", "tight", "does not fit", "unknown")


def shipped_choices(group: str) -> list[str]:
    from ftlab.config.paths import config_dir

    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml") if not path.stem.startswith("_"))


def command_lines(options: Any) -> Iterator[list[str]]:
    from ftlab.config.paths import shipped

    chosen = product(options.models, options.methods, options.hardware, options.stages)
    for model, method, hardware, stage in chosen:
        folder = [f"model.path={shipped('models/tiny')}"] if model == "local" else []
        yield [f"stage={stage}", f"model={model}", *folder, f"method={method}", f"hardware={hardware}"]


def planned(line: list[str]) -> tuple[float, str]:
    """CPU seconds of all that the command does, and its verdict; or why it is refused."""
    from ftlab.config import compose
    from ftlab.errors import FtlabError
    from ftlab.planning import make_plan
    from ftlab.use import plan

    began = time.process_time()
    try:
        run = compose.read(["task=plan", *line], compose.config_loader())
        facts = plan.describe(make_plan(run, line))
        told = "\n".join(plan.report_lines(facts))
        verdict = str(facts["verdict"])
        assert verdict in told or verdict == "unknown"
    except FtlabError as error:
        verdict = " ".join(str(error).split())
    return time.process_time() - began, verdict


def command_seconds(line: list[str]) -> float:
    """User and system seconds of the whole command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "ftlab", "plan", *line], capture_output=True, env=environment)
    assert done.returncode in (0, 1) and b"in all" in done.stdout, done.stderr.decode()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def report(what: str, lines: list[list[str]], seconds: list[float]) -> float:
    """Print how many there were, their median and the slowest. :return: its seconds."""
    slowest = max(seconds)
    words = " ".join(lines[seconds.index(slowest)])
    print(f"{what}: {len(lines):,}, median {statistics.median(seconds):.2f} s, slowest {slowest:.2f} s ({words})")
    return slowest


if __name__ == "__main__":
    main()
