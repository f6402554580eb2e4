"""One process of a run, of which the second has no memory for more than two rows from the third step on."""

from __future__ import annotations

import os
import sys

from ftlab.engine.worker import main
from tests.stages.test_halving import LittleMemory

if __name__ == "__main__":
    sys.exit(main(LittleMemory(3, 2) if os.environ["RANK"] == "1" else None))
