"""What a token of each family takes."""

from __future__ import annotations

import numpy as np
import pytest

from ftlab.data.packing.store import PackedRow, Sample
from ftlab.engine.trackers import rates
from ftlab.model.adapter import count_parameters
from tests.families import family_model
from tests.runs import make_run


@pytest.mark.parametrize(
    ("family", "attention"),
    [("llama", 2 * 2 * 16), ("mamba", 0), ("mamba2", 0), ("qwen3_next", 1 * 2 * 16), ("mpt", 2 * 2 * 16)],
)
def test_work_that_grows_with_the_length_is_that_of_the_layers_that_attend(family, attention):
    """State spaces and linear attention have none; Mamba has no heads to count, and is measured all the same."""
    model = family_model(family, 97)
    run = make_run("model=tiny")
    row = PackedRow((Sample(np.arange(9, dtype=np.int32), np.ones(9, dtype=bool)),))
    work = rates.estimate_work(run, model, count_parameters(model), [row])
    if family == "qwen3_next":  # experts are chosen in turn: its work is not known beforehand
        assert work is None and rates._attention(model.config) == attention
    else:
        assert work.attention == attention and work.flops() > 0
