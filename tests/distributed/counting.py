"""One process of a run that counts what it waits for the others for, from the second step to the last but one."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ftlab.engine.hooks import PhaseHooks
from ftlab.engine.worker import main

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "broadcast", "broadcast_object_list",
    "barrier", "reduce", "gather", "scatter", "reduce_scatter_tensor", "all_to_all_single", "monitored_barrier",
)  # fmt: skip


class Counting(PhaseHooks):
    """What DDP sums up of gradients, it does beneath Python, and is not counted."""

    def trainer_built(self, phase: Any, trainer: Any) -> None:
        import torch.distributed as dist
        from transformers import TrainerCallback

        found: Counter[str] = Counter()
        is_counting = False

        def counted(name: str, function: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                found[name] += is_counting
                return function(*args, **kwargs)

            return call

        for name in COLLECTIVES:
            setattr(dist, name, counted(name, getattr(dist, name)))

        class Between(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                nonlocal is_counting
                is_counting = 1 <= state.global_step < state.max_steps - 1

        trainer.add_callback(Between())
        self.found = found


if __name__ == "__main__":
    counting = Counting()
    code = main(counting)
    Path(f"collectives-{os.environ['RANK']}.json").write_text(json.dumps(+counting.found))
    sys.exit(code)
