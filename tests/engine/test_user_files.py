"""Real files that nobody here wrote, trained on as their owner would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs import FAST, metrics, train_run

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data files is not here")
@pytest.mark.parametrize(
    ("file", "format_", "rows"),
    [
        pytest.param("alpaca_en_demo.json", "alpaca", 999, marks=pytest.mark.matrix),
        ("glaive_toolcall_en_demo.json", "sharegpt", 300),
    ],
)
def test_a_users_file_trains(tmp_path, file, format_, rows):
    run_dir = train_run(
        tmp_path / "r",
        *FAST,
        f"data.path={SHARED / file}",
        f"data.format={format_}",
        "data.max_length=1024",
        "eval.golden_rows=0",
        "eval.samples=0",
        "tracker=none",
    )
    ledger = json.loads(run_dir.ledger("sft").read_text())["splits"]
    held = int(rows * 0.05)
    assert (ledger["train"]["rows"]["in"], ledger["validation"]["rows"]["in"]) == (rows - held, held)
    for split in ledger.values():
        assert split["rows"]["in"] == split["rows"]["kept"] + split["rows"]["dropped"]
        assert split["tokens"]["in"] == sum(split["tokens"][part] for part in ("trained", "masked", "cut"))
    losses = metrics(run_dir, "eval_loss")
    assert losses[-1] < losses[0]


@pytest.mark.matrix  # tests/data/test_real_data.py has the same two files
@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real data files is not here")
@pytest.mark.parametrize(
    ("stage", "file", "format_"),
    [("kto", "kto_en_demo.json", "kto"), ("dpo", "dpo_zh_demo.json", "preference")],
)
def test_a_users_judged_answers_train(tmp_path, stage, file, format_):
    run_dir = train_run(
        tmp_path / "r", *FAST, f"stage={stage}", f"data.path={SHARED / file}", f"data.format={format_}",
        "data.max_length=512", "data.truncation=left", "data.on_invalid=drop", "train.max_steps=20",
        "train.learning_rate=1e-5",
        "eval.golden_rows=0", "eval.samples=0",
    )  # fmt: skip
    losses = metrics(run_dir, "loss")
    assert len(losses) == 20
    assert all(loss > 0 for loss in losses)
    assert losses[0] == pytest.approx({"dpo": 0.6931, "kto": 0.5}[stage], abs=1e-3)
    assert sum(losses[-5:]) < sum(losses[:5])
