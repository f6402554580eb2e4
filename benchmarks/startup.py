"""What a command costs before it does anything: CPU seconds of whole processes, interleaved, medians.

    python benchmarks/startup.py [--repeats 7]

The last column is the ratio to ``import trl.trainer.sft_trainer`` in the same run: what a user of TRL waits for before
a typo in a config is found.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "ftlab --help": ["-m", "ftlab", "--help"],
    "ftlab --cfg job": ["-m", "ftlab", "--cfg", "job"],
    "a refused config": ["-m", "ftlab", "model=tny", "lora.rr=8", "train.learning_rate=abc"],
    "import torch": ["-c", "import torch"],
    "import trl.trainer.sft_trainer": ["-c", "import trl.trainer.sft_trainer"],
}
BASE = "import trl.trainer.sft_trainer"


def cpu_seconds(arguments: list[str]) -> float:
    """User and system seconds of one finished process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, *arguments], capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="counted runs of each command, after one that is not")
    repeats = parser.parse_args().repeats
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(repeats + 1):
        for name, arguments in COMMANDS.items():
            seconds = cpu_seconds(arguments)
            if turn:
                found[name].append(seconds)
    base = statistics.median(found[BASE])
    print(f"{'command':<34}{'median':>8}{'min':>8}{'max':>8}{'ratio':>8}   CPU seconds, {repeats} runs")
    for name, values in found.items():
        median = statistics.median(values)
        print(f"{name:<34}{median:>8.2f}{min(values):>8.2f}{max(values):>8.2f}{median / base:>8.3f}")


if __name__ == "__main__":
    main()
