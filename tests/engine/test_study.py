"""The study of a sweep by itself, on a function that needs no training."""

from __future__ import annotations

import functools
import math
import shlex
from pathlib import Path

import pytest

from ftlab.config import command_line, sweeps
from ftlab.engine import study
from ftlab.engine.study import Study
from ftlab.errors import ConfigError
from ftlab.rundir.sweep import Objective

LINE = "'train.learning_rate=tag(log, interval(1e-5, 1e-1))' lora.dropout=0.0,0.1,0.2"
LOSS = (Objective(measure="eval_loss", direction="minimize"),)


@functools.cache
def asked(line: str = LINE) -> sweeps.Sweep:
    return sweeps.read(command_line.read(shlex.split(f"-m hydra/sweeper=optuna {line}")))


def opened(file: Path, line: str = LINE, objectives=LOSS, sweep: str = "mine") -> Study:
    found = asked(line)
    return Study(found.space, objectives, found.config, file, sweep)


def loss(overrides) -> float:
    """Least at a learning rate of 1e-3 without dropout."""
    values = dict(line.split("=") for line in overrides)
    return (math.log10(float(values["train.learning_rate"])) + 3) ** 2 + float(values["lora.dropout"])


def run(trials: Study, count: int) -> list[tuple[str, ...]]:
    seen = []
    for _ in range(count):
        number, overrides = trials.ask()
        trials.tell(number, [loss(overrides)])
        seen.append(overrides)
    return seen


def test_it_learns_and_the_same_seed_chooses_the_same(tmp_path):
    first = run(opened(tmp_path / "a.jsonl"), 25)
    assert run(opened(tmp_path / "b.jsonl"), 25) == first
    assert run(opened(tmp_path / "c.jsonl", f"{LINE} seed=1"), 25) != first
    assert min(map(loss, first[10:])) < min(map(loss, first[:10])), "what it learned is better than chance"
    at_random = run(opened(tmp_path / "d.jsonl", f"{LINE} hydra/sweeper/sampler=random"), 25)
    assert sum(map(loss, first[10:])) < sum(map(loss, at_random[10:]))


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "nsgaii", "nsgaiii"])
def test_one_that_is_opened_anew_before_each_trial_chooses_the_same(tmp_path, sampler):
    line = f"'lora.dropout=range(0.0, 0.5, 0.1)' train.learning_rate=1e-4,1e-3 hydra/sweeper/sampler={sampler}"
    whole = run(opened(tmp_path / "whole.jsonl", line), 10)
    anew = []
    for number in range(10):
        trials = opened(tmp_path / "anew.jsonl", line)
        assert trials.ask()[0] == number
        ((same, overrides),) = opened(tmp_path / "anew.jsonl", line).running()  # the process was killed meanwhile
        assert same == number
        opened(tmp_path / "anew.jsonl", line).tell(number, [loss(overrides)])
        anew.append(overrides)
    assert anew == whole
    if sampler == "grid":
        assert len({*whole}) == 10, "every combination once"


def test_what_a_killed_process_left_of_the_file_is_mended(tmp_path):
    file = tmp_path / "study.jsonl"
    run(opened(file), 2)
    number, overrides = opened(file).ask()
    whole = file.read_bytes()
    with file.open("ab") as half:
        half.write(b'{"op_code":5,"work')
    (tmp_path / "study.jsonl.lock").touch()  # of a process that was killed while it wrote
    trials = opened(file)
    assert file.read_bytes().startswith(whole) and trials.running() == [(number, overrides)]
    trials.tell(number, [0.5])
    assert trials.count == 3 and trials.running() == []


def test_a_trial_without_values_has_failed_and_the_others_go_on(tmp_path):
    trials = opened(tmp_path / "study.jsonl")
    number, _ = trials.ask()
    trials.tell(number, None)
    assert trials.failed == [0] and len(run(trials, 3)) == 3 and trials.count == 4


def test_a_trial_that_was_stopped_is_no_failure_and_what_it_came_to_is_learned_from(tmp_path):
    """Of twelve, all but those near the best learning rate are stopped with the value that they had come to."""
    import optuna

    trials = opened(tmp_path / "study.jsonl")
    for _ in range(12):
        number, overrides = trials.ask()
        if (value := loss(overrides)) > 0.5:
            trials.stop(number, (3, value))
        else:
            trials.tell(number, [value])
    number, _ = trials.ask()
    trials.stop(number, None)
    assert trials.failed == [] and trials.running() == [] and trials.count == 13
    states = [trial.state.name for trial in trials._study.trials]
    assert states[-1] == "PRUNED" and states.count("PRUNED") > 2 and "COMPLETE" in states
    stopped = [trial for trial in trials._study.trials[:-1] if trial.state is optuna.trial.TrialState.PRUNED]
    assert all(trial.intermediate_values == {3: trial.value} for trial in stopped)
    later = run(opened(tmp_path / "study.jsonl"), 12)
    at_random = run(opened(tmp_path / "random.jsonl", f"{LINE} hydra/sweeper/sampler=random"), 25)
    assert sum(map(loss, later)) < sum(map(loss, at_random[13:]))


def test_two_sweeps_in_one_storage_have_trials_of_their_own_and_learn_from_all(tmp_path):
    line = f"{LINE} hydra.sweeper.storage={tmp_path}/shared.jsonl hydra.sweeper.study_name=both"
    run(opened(tmp_path / "a", line, sweep="a"), 3)
    second = opened(tmp_path / "b", line, sweep="b")
    assert second.count == 0 and second.ask()[0] == 0
    assert len(second._study.trials) == 4
    with pytest.raises(ConfigError, match="the study there is to minimize, and this is to maximize"):
        opened(tmp_path / "c", line, (Objective(measure="eval_loss", direction="maximize"),))
    other = line.replace("0.0,0.1,0.2", "0.3,0.4")
    with pytest.raises(ConfigError, match="is of another search space"):
        opened(tmp_path / "d", other, sweep="d").ask()


def test_a_database_holds_a_study_too(tmp_path):
    line = f"{LINE} hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"
    first = run(opened(tmp_path / "none", line), 3)
    assert opened(tmp_path / "none", line).count == 3 and not (tmp_path / "none").exists()
    assert run(opened(tmp_path / "study.jsonl"), 3) == first
    with pytest.raises(ConfigError, match="=nosuch://x: cannot be used"):
        opened(tmp_path / "none", f"{LINE} hydra.sweeper.storage=nosuch://x")


OWN = '''
def extend(config, trial):
    """A dropout for large adapters alone."""
    if trial.params["lora.r"] > 8:
        trial.suggest_categorical("lora.dropout", [0.1, 0.2])
    assert config.model.name == "tiny"
'''


def test_a_function_adds_to_what_is_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    line = "lora.r=4,16 hydra.sweeper.custom_search_space=own.py:extend"
    trials = opened(tmp_path / "study.jsonl", line)
    seen = {trials.ask()[1] for _ in range(12)}
    assert {one for one in seen if "lora.r=4" in one} == {("lora.r=4",)}
    assert {one[1:] for one in seen if "lora.r=16" in one} <= {("lora.dropout=0.1",), ("lora.dropout=0.2",)}
    assert ("lora.r=16",) not in seen and len(seen) > 1
    found = asked(line)
    assert study.check(found.space, found.config) in {("lora.r=4",), ("lora.r=16", "lora.dropout=0.1"),
                                                      ("lora.r=16", "lora.dropout=0.2")}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("hydra.sweeper.custom_search_space=own.py:missing", "is no function, as own.py:function"),
        ("hydra.sweeper.custom_search_space=own.py:wrong", "raised KeyError: 'lora.alpha' is not known"),
        ("+hydra.sweeper.sampler.depth=3", "hydra.sweeper.sampler=optuna.samplers.TPESampler: cannot be made"),
        ("hydra.sweeper.sampler._target_=optuna.samplers.Best", "optuna.samplers.Best: cannot be made"),
    ],
)
def test_what_would_keep_it_from_beginning_is_told_before(tmp_path, monkeypatch, line, told):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def wrong(config, trial):\n    trial.params['lora.alpha']\n")
    found = asked(f"lora.r=4,16 {line}")
    with pytest.raises(ConfigError, match=told):
        study.check(found.space, found.config)
