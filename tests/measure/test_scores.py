"""Metrics of answers: those of sacreBLEU, rouge-score and scikit-learn, and a user's own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ftlab.errors import ConfigError
from ftlab.measure.metrics import token_f1, words
from ftlab.measure.scores import METRICS, Answers, MetricError, check, resolve

PREDICTIONS = [
    "The cat sat on the mat.", "a dog  runs in the park", "", "Paris is the capital of France", "7", "no idea at all",
    "The answer is 1,200 apples.", "the the the cat",
]  # fmt: skip
REFERENCES = [
    "The cat is sitting on the mat.", "A dog runs in the park.", "nothing", "The capital of France is Paris", "7",
    "London", "1200", "the cat the dog",
]  # fmt: skip


def answers(predictions=PREDICTIONS, references=REFERENCES, **columns) -> Answers:
    count = len(predictions)
    return Answers(["?"] * count, predictions, references, [3] * count, [True] * (count - 1) + [False], columns)


def value(name: str, *given) -> float:
    (score,) = METRICS[name].score(answers(*given), 0) if name in METRICS else resolve([name])[0].score(answers(), 0)
    return score.value


@pytest.mark.parametrize("tokenizer", ["13a", "char", "intl", "zh"])
def test_bleu_is_sacrebleus(tokenizer):
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install 'ftlab[eval]'")
    expected = sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES], tokenize=tokenizer).score
    assert expected > 1 and value(f"bleu:{tokenizer}") == pytest.approx(expected, abs=1e-9)
    assert tokenizer != "13a" or value("bleu") == pytest.approx(expected, abs=1e-9)


def test_chrf_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install 'ftlab[eval]'")
    assert value("chrf") == pytest.approx(sacrebleu.corpus_chrf(PREDICTIONS, [REFERENCES]).score, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_a_resample_has_the_value_that_sacrebleu_gives_its_rows(name):
    sacrebleu = pytest.importorskip("sacrebleu", reason="pip install 'ftlab[eval]'")
    drawn = [0, 0, 3, 1, 7, 5]
    (score,) = METRICS[name].score(answers(), 0)
    found = score.statistic(score.numbers[drawn].sum(0, keepdims=True))[0]
    corpus = getattr(sacrebleu, f"corpus_{name}")
    expected = corpus([PREDICTIONS[i] for i in drawn], [[REFERENCES[i] for i in drawn]]).score
    assert found == pytest.approx(expected, abs=1e-9)
    assert score.bounds[0] < score.value < score.bounds[1]


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_that_of_rouge_score(kind):
    rouge = pytest.importorskip("rouge_score.rouge_scorer", reason="pip install 'ftlab[eval]'")
    scorer = rouge.RougeScorer([kind])
    expected = np.mean([scorer.score(r, p)[kind].fmeasure for p, r in zip(PREDICTIONS, REFERENCES)])
    assert value(kind) == pytest.approx(expected, abs=1e-12)


def test_exact_match_is_scikit_learns_accuracy():
    metrics = pytest.importorskip("sklearn.metrics")
    stripped = [text.strip() for text in PREDICTIONS]
    assert value("exact_match") == metrics.accuracy_score(REFERENCES, stripped) == 1 / 8


def test_token_f1_is_scikit_learns_f1_of_words_as_often_as_they_occur():
    metrics = pytest.importorskip("sklearn.metrics")
    for ours, theirs in zip(PREDICTIONS, REFERENCES):
        counted = [Counter(words(ours)), Counter(words(theirs))]
        each = [{(word, number) for word, count in bag.items() for number in range(count)} for bag in counted]
        every = sorted(each[0] | each[1])
        flags = [[one in bag for one in every] for bag in each]
        assert token_f1(ours, theirs) == pytest.approx(metrics.f1_score(flags[1], flags[0], zero_division=0.0))


def test_numbers_stops_and_lengths():
    assert value("numeric_answer") == 1.0  # of two references that have a number
    assert METRICS["numeric_answer"].score(answers(), 0)[0].rows == 2
    assert value("stop_rate") == 7 / 8 and value("length") == 3.0


def test_rows_without_a_reference_do_not_count():
    references = [REFERENCES[0], None, None, REFERENCES[3], "7", None, None, None]
    kept = [i for i, reference in enumerate(references) if reference is not None]
    for name in ("exact_match", "token_f1", "bleu", "chrf", "rougeL"):
        if METRICS[name].lacking is None:
            (score,) = METRICS[name].score(answers(PREDICTIONS, references), 0)
            alone = METRICS[name].score(answers([PREDICTIONS[i] for i in kept], [REFERENCES[i] for i in kept]), 0)[0]
            assert (score.value, score.rows) == (pytest.approx(alone.value), 3)


# ------------------------------------------------------------------------------------------------ a user's functions

USER = """
import numpy as np

def politeness(predictions, references, tone):
    return [None if one is None else float("please" in text) * len(one) for text, one in zip(predictions, tone)]

def share(predictions):
    return np.float64(0.25)

def both(predictions, references, **columns):
    assert sorted(columns) == ["prompts", "tone"]
    return {"hits": np.array([a == b for a, b in zip(predictions, references)]), "one": 3}

def fails(predictions):
    return [1 / 0]

def short(predictions):
    return [1.0]

def wrong(predictions):
    return ["good"] * len(predictions)

def greedy(predictions, weather):
    return 1.0

other = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(USER)
    return path


def scores(spec: str) -> dict:
    (metric,) = resolve([spec])
    given = answers(["please", "no", "please do"], ["please", "no", "yes"], tone=["ab", "cd", None])
    return {score.name: score for score in metric.score(given, 0)}


def test_a_users_function_has_columns_by_name_and_one_value_for_each_row(file):
    found = scores(f"{file}:politeness")["politeness"]
    assert (found.value, found.rows, found.of_rows) == (1.0, 2, [2.0, 0.0, None])
    assert found.bounds[0] <= 1.0 <= found.bounds[1]


def test_one_number_has_no_interval_and_a_mapping_has_many_names(file):
    found = scores(f"{file}:share")["share"]
    assert (found.value, found.bounds, found.numbers) == (0.25, None, None)
    found = scores(f"{file}:both")
    assert {name: score.value for name, score in found.items()} == {"both_hits": pytest.approx(2 / 3), "both_one": 3.0}
    assert found["both_hits"].bounds is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"my\.py:fails failed: ZeroDivisionError: division by zero \(.*my\.py, line 15\)"),
        ("short", r"my\.py:short returned 1 values for 3 predictions; it must return a number, a list with one"),
        ("wrong", r"my\.py:wrong gave 'good'; only finite numbers and None will do"),
        ("greedy", r"my\.py:greedy asks for weather, which the rows do not have\. They have tone, predictions, ref"),
    ],
)
def test_a_function_that_fails_is_told_with_its_line(file, name, message):
    with pytest.raises(MetricError, match=message):
        scores(f"{file}:{name}")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["exactmatch"], "there is no such metric; there are exact_match, token_f1,"),
        (["bleu:latin"], "sacreBLEU's tokenizers are 13a, zh, char, intl, none."),
        (["FILE"], "name a function of that file too"),
        (["FILE:politenes"], "has no function 'politenes'; it has "),
        (["no.py:f"], "there is no file"),
        (["FILE:share", "FILE:share"], "two metrics are called share; name each once."),
    ],
)
def test_names_that_are_none_are_told_before_anything_runs(file, names, said):
    given = [name.replace("FILE", str(file)) for name in names]
    file.write_text(USER + "\nraise SystemExit('it was run')\n")
    assert [said in str(mistake) for mistake in check(given)] == [True]
    with pytest.raises(ConfigError):
        resolve(given)


def test_what_metrics_are_called(make_run, file):
    run = make_run(f"eval.metrics=[exact_match,'bleu:zh',{file}:both]")
    assert run.eval.metric_names == ["exact_match", "bleu_zh", "both"]
    assert [metric.name for metric in resolve(run.eval.metrics)] == run.eval.metric_names
    measured = {"bleu_zh": True, "both_hits": True, "both": True, "exact_match_x": False, "chrf": False}
    assert {name: run.eval.measures(name) for name in measured} == measured
    assert check(None) == []
