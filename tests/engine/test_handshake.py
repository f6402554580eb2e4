"""What processes of a run compare, and how one that hangs is found: each difference is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ftlab.distributed.sharding import Sharding
from ftlab.engine.fingerprints import check_saved, weight_sums
from ftlab.engine.handshake import check_facts, check_rows, check_weights
from ftlab.engine.watchdog import describe_hang
from ftlab.errors import RanksDifferError, RunDirError

NOW = 1e9
FACTS = {"processes": 2, "precision": "torch.float32", "rows": "abc", "torch": "2.8.0"}


def test_processes_that_agree():
    check_facts({"processes": 2}, [FACTS, FACTS])
    check_rows([[3, 1], [2, 5], [4, 0]], [[3, 1, 4, 0], [2, 5]], 2)
    check_rows([[3, 1], [2, 5], [4, 0]], [[3, 1, 4, 0], [2, 5, -4]], 2)  # a filler behind its own
    check_weights([{"a": 1, "b": 2}, {"a": 1, "b": 2}])


def test_everything_that_differs_is_named_with_its_rank():
    with pytest.raises(RanksDifferError) as caught:
        check_facts({"processes": 2, "precision": "torch.float32"}, [
            {**FACTS, "precision": "torch.bfloat16"}, {**FACTS, "rows": "xyz", "torch": "2.9.0"},
        ])  # fmt: skip
    assert str(caught.value).splitlines() == [
        "The processes of this run differ, and nothing was trained:",
        "  - rank 0: precision is torch.bfloat16, and torch.float32 was planned",
        "  - rank 1: rows is xyz, and abc at rank 0",
        "  - rank 1: torch is 2.9.0, and 2.8.0 at rank 0",
    ]


def test_both_train_on_the_same_rows():
    """The failure that users of launchers report most: each process believes that it is alone."""
    with pytest.raises(RanksDifferError, match="Rank 1 of 2 trained its first step on other rows than planned"):
        check_rows([[3, 1], [2, 5]], [[3, 1], [3, 1]], 2)


def test_weights_that_drift_apart():
    with pytest.raises(RanksDifferError, match="rank 1 of 2 has other weights than rank 0 in 1 of 2 tensors, b first"):
        check_weights([{"a": 1, "b": 2}, {"a": 1, "b": 3}])


def test_sums_tell_one_changed_bit():
    model = torch.nn.Linear(3, 2)
    before = weight_sums(model, Sharding())
    assert weight_sums(model, Sharding()) == before and before.keys() == {"weight", "bias"}
    with torch.no_grad():
        model.weight[1, 2] = torch.nextafter(model.weight[1, 2], torch.tensor(9.0))
    after = weight_sums(model, Sharding())
    assert after["weight"] != before["weight"] and after["bias"] == before["bias"]


@pytest.fixture
def adapted():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))


def test_an_adapter_is_looked_at_once_it_is_saved(tmp_path, adapted):
    before = weight_sums(adapted, Sharding())
    adapted.save_pretrained(tmp_path / "idle")
    assert check_saved(tmp_path / "idle", adapted, before, Sharding()) == (
        "training changed no weight: the learning rate or every gradient was 0"
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            parameter += 1.0 if "lora_B" in name else 0.0
    adapted.save_pretrained(tmp_path / "good")
    assert check_saved(tmp_path / "good", adapted, before, Sharding()) is None
    with pytest.raises(RunDirError, match="idle has the adapter as it was before training"):
        check_saved(tmp_path / "idle", adapted, before, Sharding())
    (tmp_path / "empty").mkdir()
    save_file({"nothing": torch.zeros(1)}, tmp_path / "empty/adapter_model.safetensors")
    with pytest.raises(RunDirError, match="empty has 0 numbers of the adapter, and 16 were trained"):
        check_saved(tmp_path / "empty", adapted, before, Sharding())


def beat(step: int, waits: bool | None = None, age: float = 0.0) -> dict[str, object]:
    place = {} if waits is None else {"at": "f, x.py:3", "waits": waits}
    return {"time": NOW - age, "step": step, "hangs": waits is not None, **place}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({0: beat(4, True), 1: beat(4, False)}, "The others wait for rank 1 (at f, x.py:3). The stacks"),
        ({0: beat(4, True), 1: beat(4, None, 500)}, "The others wait for rank 1 (it gives no sign). The stacks"),
        ({0: beat(4, True), 1: {}}, "The others wait for rank 1 (it gives no sign). The stacks"),
        ({0: beat(3, True), 1: beat(4, True)}, "The others wait for rank 0 (at f, x.py:3). The stacks"),
        ({0: beat(4, True), 1: beat(4, True)}, "All 2 ranks wait for one another. The stacks"),
    ],
)
def test_the_one_that_is_missing(found, told):
    line = describe_hang(found, NOW, 90.0, 60.0, Path("outputs/a/ranks/rank-0-stacks.txt"))
    assert line.startswith("No step for 1.5 minutes after step 4 (hardware.hang_minutes=1): the run hangs. ")
    assert told in line and line.endswith("The stacks of each are in outputs/a/ranks.")
