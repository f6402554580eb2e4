"""Which runs may go on with another number of processes, by their configs alone; real ones: tests/distributed."""

from __future__ import annotations

import pytest

from ftlab.rundir.other_ranks import same_rows, why_not

SIZE = "train.gradient_accumulation_steps"
ONE = ("hardware=cpu", "lora.dropout=0", "train.micro_batch_size=2", f"{SIZE}=4")
TWO = ("hardware=cpu", "lora.dropout=0", "train.micro_batch_size=2", f"{SIZE}=2", "hardware.devices=2")


@pytest.mark.parametrize("stage", ["sft", "pt", "rm", "dpo", "orpo"])
def test_a_step_that_stays_what_it_is(make_run, stage):
    one, two = (make_run(*words, f"stage={stage}") for words in (ONE, TWO))
    for here, there in ((one, two), (two, one)):
        assert why_not(here, there, is_under_way=True) is None
        assert same_rows(here, there) == (SIZE,)
    assert same_rows(one, one) == ()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("lora.dropout=0.1",), "each of them draws its own dropout (lora.dropout=0.1)"),
        (("stage.neftune_alpha=5",), "each of them draws its own noise"),
        (("stage=kto",), "kto takes its KL from one micro-batch of every process"),
        (("stage=ppo",), "stage=ppo has not been shown to go on exactly with others"),
        (("deepspeed=z2",), "under deepspeed=z2 each of them has saved its own share"),
    ],
)
def test_what_would_not(make_run, words, reason):
    sizes = ("stage.rollout_batch_size=8", "stage.mini_batch_size=8") if "stage=ppo" in words else ()
    here, there = make_run(*ONE, *words, *sizes), make_run(*TWO, *words, *sizes)
    told = why_not(here, there, is_under_way=True)
    assert told is not None and reason in told
    assert told.startswith("it began with 1 process, and 2 are asked for (hardware.devices)")
    assert told.endswith("Go on with 1 process, or start another run with run.if_exists=new.")
    assert why_not(here, there, is_under_way=False) is None
    assert why_not(here, here, is_under_way=True) is None


def test_shards_of_two_are_none_of_four(make_run):
    here = make_run(*TWO, "hardware.fsdp=true")
    told = why_not(here, make_run(*TWO, "hardware.fsdp=true", "hardware.devices=4", f"{SIZE}=1"), is_under_way=True)
    assert told is not None and "under hardware.fsdp=true each of them has saved its own share" in told


def test_dropout_that_a_stage_switches_off_is_none(make_run):
    here, there = (make_run(*words, "stage=dpo", "lora.dropout=0.1") for words in (ONE, TWO))
    assert why_not(here, there, is_under_way=True) is None


def test_a_step_of_other_rows_is_told_with_what_keeps_them(make_run):
    here = make_run(*ONE)
    told = why_not(here, make_run(*TWO, f"{SIZE}=4"), is_under_way=False)
    assert told is not None and f"a step took 8 rows and would take 16; {SIZE}=2 keeps them" in told
    told = why_not(here, make_run(*TWO, "hardware.devices=3"), is_under_way=True)
    assert told is not None and "8 do not go round on 3 processes" in told
