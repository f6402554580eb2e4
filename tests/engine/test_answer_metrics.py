"""eval.metrics while a run trains: values with intervals, to metrics.jsonl and trackers, and weights chosen by them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.errors import ConfigError
from ftlab.measure.metrics import token_f1
from ftlab.measure.scores import MetricError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.summary import find_measure
from tests.runs import train_run

GIVEN = (
    "data.max_samples=48", "data.split.validation=none", "eval.golden_rows=12", "eval.samples=12",
    "eval.max_new_tokens=8", "train.max_steps=4", "train.logging_steps=2", "train.learning_rate=5e-3",
    "train.warmup_ratio=0", "tracker=tensorboard", "eval.generate_every=2", "train.save_steps=2",
)  # fmt: skip
FUNCTIONS = """
asked = []

def countries(predictions, references, input):
    return {"asked": [float("Country" in one) for one in input], "count": len(predictions)}

def breaks(predictions):
    asked.append(len(predictions))
    return [1 / (2 - len(asked))] * len(predictions)

def broken(predictions):
    raise KeyError("no")
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("functions") / "my.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory, functions) -> RunDir:
    return train_run(
        tmp_path_factory.mktemp("measured") / "r", *GIVEN, f"eval.metrics=[exact_match,token_f1,{functions}:countries]",
        "train.keep_best=true", "train.best_metric=golden_token_f1",
    )  # fmt: skip


def test_each_answering_has_every_metric_with_its_interval(measured):
    lines = {line["step"]: line for line in measured.read_metrics() if "golden_exact_match" in line}
    assert [*lines] == [0, 2, 4]
    for step, when in ((0, "before"), (2, 2), (4, 4)):
        told = json.loads(measured.samples_file("sft", when).read_text())
        answers = [(one["answer"], one["expected"]) for one in told["samples"]]
        expected = sum(token_f1(*pair) for pair in answers) / 12
        line = lines[step]
        assert line["golden_token_f1"] == pytest.approx(expected) == told["values"]["golden token f1"]
        assert line["golden_token_f1_low"] <= line["golden_token_f1"] <= line["golden_token_f1_high"]
        assert [line["golden_token_f1_low"], line["golden_token_f1_high"]] == told["intervals"]["golden token f1"]
        assert line["golden_countries_count"] == 12 and "golden_countries_count_low" not in line
        countries = sum("Country" in one["prompt"] for one in told["samples"]) / 12
        assert line["golden_countries_asked"] == pytest.approx(countries)


def test_weights_are_chosen_by_a_metric_of_answers(measured):
    values = {line["step"]: line["golden_token_f1"] for line in measured.read_metrics() if "golden_token_f1" in line}
    del values[0]
    result = measured.manifest()["phases"]["sft"]
    assert result["weights_of_step"] == max(values, key=values.__getitem__)
    assert result["after"]["golden token f1"] == values[result["weights_of_step"]]
    assert find_measure("golden_token_f1", result["after"]) == "golden token f1"
    assert "golden exact match" in (log := measured.log.read_text()) and "the best by golden token f1" in log


def test_trackers_have_them(measured):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(measured.tensorboard))
    events.Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("golden/")}
    assert {"golden/token_f1", "golden/token_f1_low", "golden/token_f1_high", "golden/countries_count"} <= tags


def test_a_function_that_breaks_in_mid_run_is_told_and_the_run_goes_on(tmp_path, functions):
    run = train_run(tmp_path / "r", *GIVEN, f"eval.metrics=[{functions}:breaks]", "tracker=none")
    log = " ".join(run.log.read_text().split())
    assert "my.py:breaks failed: ZeroDivisionError" in log and "It has no value after step 2." in log
    assert [line["step"] for line in run.read_metrics() if "golden_breaks" in line] == [0, 4]


def test_one_that_is_broken_is_told_before_anything_is_trained(tmp_path, functions):
    with pytest.raises(MetricError, match=r"my\.py:broken failed: KeyError: 'no' \(.*my\.py, line 12\)"):
        train_run(tmp_path / "r", *GIVEN, f"eval.metrics=[{functions}:broken]", "tracker=none")


def test_a_name_that_is_none_is_told_before_anything_is_loaded(tmp_path, functions, mistakes):
    with pytest.raises(ConfigError, match=r"my\.py has no function 'nothing'; it has"):
        train_run(tmp_path / "r", *GIVEN, f"eval.metrics=[{functions}:nothing]", "tracker=none")
    said = mistakes(f"train.keep_best=true train.best_metric=golden_chrf eval.metrics=[bleu,{functions}:countries]")
    assert said == [
        "train.best_metric=golden_chrf: stage=sft measures loss, perplexity, golden_exact_match, golden_bleu, "
        "golden_countries"
    ]
    given = f"train.keep_best=true eval.generate_every=2 eval.metrics=[bleu,{functions}:countries]"
    assert mistakes(f"{given} train.best_metric=golden_countries_asked") == []
