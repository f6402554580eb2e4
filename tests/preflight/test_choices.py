"""hardware.fits_by: what a preset chooses where a run would not fit, and what it leaves alone."""

from __future__ import annotations

import re

import pytest

from ftlab.engine.tasks import prepare
from ftlab.errors import NotReadyError, RunDirError
from ftlab.planning import make_plan
from ftlab.preflight import fit
from ftlab.preflight.choices import chosen_line, make_fitting_plan
from ftlab.preflight.memory import predict
from ftlab.use import plan
from tests.runs import BARE, make_run

FULL_8B = ("model=llama3_1_8b", "method=full")


def chosen(*words: str) -> tuple[str, ...]:
    (phase,) = make_fitting_plan(make_run(*words), words).phases
    return phase.chosen


def test_full_fine_tuning_of_8b_gets_what_makes_it_fit_each_card():
    """Batches first, which change nothing but the time, and 8 bits only where there is no other way."""
    words = (*FULL_8B, "hardware=h100")
    (phase,) = make_fitting_plan(make_run(*words), words).phases
    assert phase.chosen[1:] == ("train.gradient_checkpointing=true", "train.optimizer=adamw_8bit")
    assert phase.chosen[0].startswith("train.micro_batch_size=")
    train, before = phase.config.train, make_run(*words).train
    rows = [one.micro_batch_size * one.gradient_accumulation_steps for one in (train, before)]
    assert rows[0] == rows[1] and (train.optimizer, train.gradient_checkpointing) == ("adamw_8bit", True)
    assert fit.verdict(predict(make_run(*words))) == "does not fit" != fit.verdict(predict(phase.config))
    assert not any("optimizer" in word for word in chosen(*FULL_8B, "hardware=h200"))
    assert chosen(*FULL_8B, "hardware=8xh100", "hardware.fsdp=true")[0].startswith("train.micro_batch_size=")


def test_what_fits_stays_and_what_the_command_line_gives():
    assert chosen("model=llama3_2_1b", "hardware=h100") == ()
    words = (*FULL_8B, "hardware=h100")
    given = chosen(*words, "train.micro_batch_size=1")
    assert given == ("train.gradient_checkpointing=true", "train.optimizer=adamw_8bit")
    # Nothing else is enough, so that it is refused as ever.
    for word in ("hardware.fits_by=[]", "train.optimizer=adamw_torch_fused", "train={optimizer: adamw_torch_fused}"):
        assert chosen(*words, word) == ()
        run = make_run(*words, word)
        with pytest.raises(fit.NotReadyError, match="This run needs about"):
            fit.check_fits(make_plan(run, (*words, word)), is_here=False)
    assert chosen(*FULL_8B, "hardware=cpu") == chosen(*FULL_8B, "hardware=auto", "hardware.memory_gb=80") == ()


def test_each_phase_of_a_curriculum_has_its_own():
    phases = "phases=[{name: small, data: {max_length: 64}, train: {micro_batch_size: 1}}, {name: large, stage: dpo}]"
    words = (phases, "model=llama3_1_8b", "hardware=gpu_24gb", "phases.large.train.micro_batch_size=2")
    small, large = make_fitting_plan(make_run(*words), words).phases
    assert small.chosen == () and large.chosen == ("train.gradient_checkpointing=true",)


def test_it_is_told_and_written_in_the_run(tmp_path, monkeypatch):
    words = (*FULL_8B, "hardware=h100", f"run.dir={tmp_path / 'run'}", *BARE)
    facts = plan.describe(make_fitting_plan(make_run(*words), words))
    lines = "\n".join(plan.report_lines(facts))
    assert "chosen      train.micro_batch_size=" in lines and "without which it would not fit" in lines
    assert "optimizer   adamw_8bit (15.2 GiB)" in lines and "attention   auto: by segments, without a mask" in lines
    monkeypatch.setattr("ftlab.preflight.check.check_plan", lambda *given: None)
    run_dir = prepare(make_run(*words), words)
    (phase,) = run_dir.plan().phases
    assert phase.chosen == tuple(facts["phases"][0]["chosen"]) and phase.config.train.optimizer == "adamw_8bit"
    assert "hardware=h100 chose train.micro_batch_size=" in str(chosen_line(phase))
    assert prepare(make_run(*words), words).path == run_dir.path, "the same words go on with it"


def test_a_run_that_has_begun_keeps_what_it_was_given(tmp_path, monkeypatch):
    """On a larger card, and with nothing for the preset to choose."""
    monkeypatch.setattr("ftlab.preflight.check.check_plan", lambda *given: None)
    words = (*FULL_8B, "hardware=h100", f"run.dir={tmp_path / 'run'}", *BARE)
    run_dir = prepare(make_run(*words), words)
    (first,) = run_dir.plan().phases
    words = (*words, "hardware=h200", "hardware.fits_by=[]")
    run = make_run(*words)
    assert make_fitting_plan(run, words).phases[0].chosen == ()  # nothing has begun yet
    run_dir.metrics.touch()
    (phase,) = make_fitting_plan(run, words).phases
    assert phase.chosen == first.chosen != () and phase.config.train == first.config.train != run.train
    assert prepare(run, words).path == run_dir.path
    words = (*words, "train.optimizer=adamw_torch_fused")
    with pytest.raises(RunDirError, match=r"train\.optimizer: adamw_8bit there, adamw_torch_fused here"):
        prepare(make_run(*words), words)


def test_a_run_that_has_begun_is_told_that_a_change_makes_another(tmp_path, monkeypatch):
    monkeypatch.setattr("ftlab.preflight.check.check_plan", lambda *given: None)
    words = (*FULL_8B, "hardware=h100", f"run.dir={tmp_path / 'run'}", *BARE)
    run_dir = prepare(make_run(*words), words)
    smaller = (*words, "hardware.memory_gb=24")
    ending = "and run.if_exists=new, another run begins."
    for has_begun in (False, True):
        if has_begun:
            run_dir.metrics.touch()
        with pytest.raises(NotReadyError, match=r"and hardware.memory_gb=24. It would fit with:") as error:
            prepare(make_run(*smaller), smaller)
        assert (ending in str(error.value)) is has_begun
    change = re.findall(r"  - (.*)  \(", str(error.value))[0].split()
    another = (*smaller, *change, "run.if_exists=new")
    assert prepare(make_run(*another), another).path != run_dir.path
