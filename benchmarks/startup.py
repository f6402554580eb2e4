"""What a command costs before it does anything, and what a whole run costs, beside TRL.

    python benchmarks/startup.py                       # all of it
    python benchmarks/startup.py --cases help config --repeats 7

- ``help``, ``config``, ``refused``, ``plan``: ftlab's commands beside ``import trl.trainer.sft_trainer``, which is what
  a user of TRL waits for before a typo in a config is found; and beside ``import torch``, to see what that is of it.
- ``import ftlab``: what the training run imports, beside the same import of TRL.
- ``first step``: from the command to one optimizer step and its checkpoint, without evaluations and answers.
- ``main job``: ``python -m ftlab`` whole, beside ``plain_trl.py``, which does the same as a user of TRL writes it.

Every measurement is a whole process. Neither side has anything cached.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import harness
from harness import Case, Figures, Ratio

HERE = Path(__file__).resolve().parent
WHOLE_RUN = 0.7  # of the wall seconds of the plain script
IMPORTS = ["-c", "import trl.trainer.sft_trainer"]
COMMANDS = {
    "help": ["-m", "ftlab", "--help"],
    "config": ["-m", "ftlab", "--cfg", "job"],
    "refused": ["-m", "ftlab", "model=tny", "lora.rr=8", "train.learning_rate=abc"],
    "plan": ["-m", "ftlab", "plan"],
    "import ftlab": ["-c", "import ftlab.engine.tasks, ftlab.engine.phase, ftlab.stages.sft"],
}
FAILS = {"refused": 1}  # with which code
SHORT = ("train.max_steps=1", "data.split.validation=none", "data.split.golden=none")


def main() -> None:
    harness.main("startup", harness.parser_of(__doc__).parse_args(), cases, measure)


def cases(options: Any) -> list[Case]:
    lower = (Ratio("CPU s", better="lower", peers="trl"), Ratio("wall s", better="lower", peers="trl"))
    found = [
        Case(
            name,
            {"ftlab": {"words": words, "code": FAILS.get(name, 0)}, "trl": {"words": IMPORTS},
             "torch": {"words": ["-c", "import torch"]}},
            lower,
        )
        for name, words in COMMANDS.items()
    ]  # fmt: skip
    plain = str(HERE / "plain_trl.py")
    whole = (Ratio("wall s", at_most=WHOLE_RUN), Ratio("CPU s", better="lower"), Ratio("peak MiB", better="lower"))
    steps = ("train.max_steps=2", "eval.golden_rows=4") if options.small else ()
    found.append(
        Case(
            "first step",
            {"ftlab": {"words": ["-m", "ftlab", "run.dir=run", *SHORT]},
             "trl": {"words": [plain, "run", "--max-steps", "1", "--no-answers"]}},
            lower,
        )
    )  # fmt: skip
    found.append(
        Case(
            "main job",
            {"ftlab": {"words": ["-m", "ftlab", "run.dir=run", *steps]},
             "trl": {"words": [plain, "run", *(("--max-steps", "2") if options.small else ())]}},
            whole,
        )
    )  # fmt: skip
    return found


def measure(words: list[str], code: int = 0) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        return harness.command(words, folder, code)


if __name__ == "__main__":
    main()
