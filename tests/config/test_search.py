"""What ``hydra/sweeper=optuna`` has to choose from, and what a sweep is judged by: read and judged before it begins."""

from __future__ import annotations

import shlex

import pytest

from ftlab.config import command_line, sweeps
from ftlab.config.search import Parameter, Space

OPTUNA = "-m hydra/sweeper=optuna"


def space(line: str) -> Space:
    found = sweeps.read(command_line.read(shlex.split(f"{OPTUNA} {line}"))).space
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("typed", "kind", "values", "low", "high", "is_log"),
    [
        ("lora.r=4,8", "choice", [4, 8], 0, 0, False),
        ("lora.r=choice(4,8)", "choice", [4, 8], 0, 0, False),
        ("lora.r=shuffle(choice(8,16,4))", "choice", [16, 4, 8], 0, 0, False),
        ("lora=r16,r64", "choice", ["r16", "r64"], 0, 0, False),
        ("'lora.r=range(4, 10, 2)'", "int", [4, 6, 8], 4, 8, False),  # the end is not in it, as in Hydra
        ("lora.r=int(interval(4,6))", "int", [4, 5, 6], 4, 6, False),
        ("lora.dropout=interval(0.1,0.5)", "float", None, 0.1, 0.5, False),
        ("'lora.dropout=tag(log, interval(1e-5, 1e-1))'", "float", None, 1e-5, 0.1, True),
        ("'lora.r=int(tag(log, interval(2, 4)))'", "int", [2, 3, 4], 2, 4, True),
    ],
)
def test_what_stands_on_the_command_line_is_what_is_chosen_from(typed, kind, values, low, high, is_log):
    (found,) = space(f"{typed} seed=3").parameters
    assert (found.kind, found.values, found.low, found.high, found.is_log) == (kind, values, low, high, is_log)
    assert space(f"{typed} seed=3").fixed == ("seed=3",)


def test_a_job_is_the_command_line_with_a_value_for_each():
    found = space("seed=3 'train.learning_rate=interval(1e-5, 1e-3)' 'data.split.validation=a.jsonl,b.jsonl'")
    lines = found.overrides({"train.learning_rate": 2e-4, "data.split.validation": "b.jsonl"})
    assert lines == ("seed=3", "train.learning_rate=0.0002", "data.split.validation=b.jsonl")
    with pytest.raises(ValueError, match="the search space of the function has it, and so has the command line"):
        found.overrides({"train.learning_rate": 2e-4, "data.split.validation": "b.jsonl", "seed": 4})


def test_a_phase_is_searched_under_the_name_that_is_typed():
    (found,) = space("phase=align phases.prefer.stage.beta=interval(0.1,0.5)").parameters
    assert found.name == "phases.prefer.stage.beta"
    assert command_line.phases.decode_override(found.line(0.2)) == "phases.prefer.stage.beta=0.2"


def test_params_of_the_config_are_searched_and_the_command_line_wins():
    found = space("""'hydra.sweeper.params={lora.r: "choice(4,8)", seed: 3}' lora.dropout=0.1,0.2""")
    assert [one.name for one in found.parameters] == ["lora.r", "lora.dropout"] and found.fixed == ("seed=3",)
    assert space("""'hydra.sweeper.params={lora.r: "choice(4,8)"}' lora.r=4 seed=1,2""").fixed == ("lora.r=4",)


def test_a_grid_has_no_more_trials_than_there_are():
    line = "hydra/sweeper/sampler=grid lora.r=4,8 'lora.dropout=range(0.0, 0.3, 0.1)'"
    assert space(line).trials == 6 and space(f"{line} hydra.sweeper.n_trials=5").trials == 5


def test_a_parameter_without_end_has_no_list_of_values():
    assert Parameter("a", "a", "float", {}, 0.0, 1.0).values is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{OPTUNA} lora.r=4", "hydra/sweeper=optuna: has nothing to choose"),
        (f"{OPTUNA} 'lora.r=interval(4, 64)'", "Of whole numbers: 'lora.r=int(interval(4, 64))'"),
        (f"{OPTUNA} lora.dropout=interval(0,1)", "lora.dropout=1.0: must be less than 1"),
        (f"{OPTUNA} 'lora.r=int(interval(64,4))'", "an interval goes from less to more"),
        (f"{OPTUNA} 'seed=tag(log,range(0,3))'", "what is drawn by its logarithm begins above 0"),
        (f"{OPTUNA} lora.r=4,8 hydra.sweeper.n_trial=3", "Did you mean hydra.sweeper.n_trials?"),
        (f"{OPTUNA} lora.r=4,8 hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0: must be greater than 0"),
        (f"{OPTUNA} lora.r=4,8 hydra.sweeper.sampler.n_startup=3", "hydra.sweeper.sampler.n_startup_trials"),
        (f"{OPTUNA} lora.r=4,8 data.split.validation=none", "leaves nothing to measure it on; name one of"),
        (f"{OPTUNA} hydra/sweeper/sampler=grid lora.dropout=interval(0,0.5)", "the sampler tries all: use range"),
        (f"""{OPTUNA} 'hydra.sweeper.params={{lora.r: "choice(8,x)"}}'""", "lora.r=x: must be a valid integer"),
        ("-m lora.r=interval(4,64)", "an interval needs a sweeper that samples: hydra/sweeper=optuna"),
        ("hydra/sweeper=optuna lora.r=4", "hydra/sweeper=optuna: is for a sweep: add -m"),
        ("sweep.name=x", "sweep.name=x: is for a sweep: add -m"),
        ("-m lora.r=4,8 sweep.name=a/b", "names a folder of multirun/"),
        ("-m lora.r=4,8 sweep.name=a,b", "sweep.name=a,b: is the whole sweep's, and cannot be swept"),
        ("-m lora.r=4,8 hydra/launcher=slurm hydra.launcher.exclude=a,b",
         """a value with a comma is "hydra.launcher.exclude='a,b'\""""),
        ("-m lora.r=4,8 sweep.objective=eval_loss,loss", "a list is 'sweep.objective=[eval_loss,loss]'"),
        ("-m lora.r=4,8 sweep.objective=[loss,loss]", "names a measure twice"),
        ("-m lora.r=4,8 sweep.objective=[loss,eval_loss] sweep.direction=minimize",
         "2 objectives have one each: sweep.direction=[minimize,minimize]"),
        ("-m lora.r=4,8 sweep.direction=minimize", "says which way sweep.objective is better, and there is none"),
        ("-m stage=sft,dpo sweep.objective=eval_perplexity", "Of stage=dpo there will be eval_loss, "),
        ("-m phase=align seed=1,2 sweep.objective=eval_perplexity", "Of stage=dpo there will be eval_loss, "),
        ("-m lora.r=4,8 sweep.objective=golden_exact_match data.split.golden=none", "no golden prompts are answered"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_words(line, told, mistakes):
    (found,) = mistakes(line)
    assert told in found


def test_a_wrong_objective_is_told_with_what_will_be_logged(mistakes):
    assert mistakes("-m lora.r=4,8 sweep.objective=perplexity") == [
        "sweep.objective=perplexity: is never logged. Of stage=sft there will be eval_loss, eval_perplexity, "
        "golden_exact_match, loss, tokens_per_second. Did you mean eval_perplexity?"
    ]


@pytest.mark.parametrize(
    ("line", "objectives"),
    [
        ("-m lora.r=4,8", []),
        (f"{OPTUNA} lora.r=4,8", ["eval_loss minimize"]),
        (f"{OPTUNA} lora.r=4,8 stage=rm", ["eval_accuracy maximize"]),
        (f"{OPTUNA} lora.r=4,8 hydra.sweeper.direction=maximize", ["eval_loss maximize"]),
        (f"{OPTUNA} lora.r=4,8 sweep.objective=[loss,golden_exact_match]",
         ["loss minimize", "golden_exact_match maximize"]),
        ("-m lora.r=4,8 sweep.objective=tokens_per_second", ["tokens_per_second maximize"]),
        ("-m lora.r=4,8 sweep.objective=eval_loss sweep.direction=maximize", ["eval_loss maximize"]),
    ],
)  # fmt: skip
def test_what_a_sweep_is_judged_by(line, objectives):
    journal = sweeps.read(command_line.read(shlex.split(line))).journal
    assert [f"{one.measure} {one.direction}" for one in journal.objectives] == objectives


@pytest.mark.parametrize("line", [f"{OPTUNA} 'lora.r=tag(fast, range(1,4))'", f"{OPTUNA} lora.r=range(4,4)"])
def test_what_cannot_be_chosen_from_is_told(line, mistakes):
    assert any("no such tag: fast" in one or "nothing in this range" in one for one in mistakes(line))


def test_an_experiment_may_choose_the_sweeper_and_what_it_searches(tmp_path, mistakes):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /hydra/sweeper: optuna\n"
        "hydra:\n  sweeper:\n    n_trials: 4\n    params:\n      train.learning_rate: tag(log, interval(1e-5, 1e-3))\n"
    )
    line = f"--config-dir={tmp_path} experiment=mine"
    found = sweeps.read(command_line.read(shlex.split(f"-m {line} 'lora.r=int(interval(4, 8))'")))
    assert found.space is not None and found.journal.count == 4
    assert [one.name for one in found.space.parameters] == ["train.learning_rate", "lora.r"]
    assert mistakes(f"-m {line} 'lora.r=int(interval(4, 8))'") == []
    assert mistakes(f"{line} data.split.validation=none") == [], "a single run of it is judged by nothing"
