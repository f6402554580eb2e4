"""What the main job costs and teaches: ``python -m ftlab`` as whole processes, one after the other.

    python benchmarks/main_job.py [--seeds 1 2 3] [OVERRIDE ...]

Prints wall seconds with start-up, and the validation loss and golden exact match before and after, for each seed and
as a mean. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ftlab.rundir.directory import RunDir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    overrides = [word for word in sys.argv[1:] if "=" in word]  # which --seeds would take for seeds
    arguments = parser.parse_args([word for word in sys.argv[1:] if word not in overrides])
    rows = []
    print(f"{'seed':<6}{'wall s':>8}{'loss before':>13}{'after':>8}{'match before':>14}{'after':>8}")
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            started = time.perf_counter()
            command = [sys.executable, "-m", "ftlab", f"seed={seed}", f"run.dir={run}", *overrides]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - started
            (result,) = RunDir.open(run).manifest()["phases"].values()
        sides = (result["before"], result["after"])
        rows.append([wall, *(side[key] for key in ("validation loss", "golden exact match") for side in sides)])
        print(line(str(seed), rows[-1]), flush=True)
    print(line("mean", [sum(column) / len(rows) for column in zip(*rows)]))


def line(name: str, values: list[float]) -> str:
    wall, loss_before, loss_after, match_before, match_after = values
    return f"{name:<6}{wall:>8.1f}{loss_before:>13.3f}{loss_after:>8.3f}{match_before:>14.3f}{match_after:>8.3f}"


if __name__ == "__main__":
    main()
