"""Rewards by name: what each gives, what is refused before anything runs, and what happens when one fails."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.errors import ConfigError, FtlabError
from ftlab.measure.numbers import last_number
from ftlab.stages.rewards.resolve import check, resolve
from ftlab.stages.rewards.scoring import Reward, RewardError, Scores, score


def values(name: str, completion: str, answer: str | None = None) -> float | None:
    return score(resolve([name]), None, ["?"], [completion], [answer], {}).values[name][0]


@pytest.fixture
def file(tmp_path):
    """``file("def f...")``: a Python file with that in it."""

    def write(code: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(code, encoding="utf-8")
        return path

    return write


def of_file(path: Path, *completions: str, on_error: str = "stop", answers=None, **columns) -> Scores:
    count = len(completions)
    prompts = [f"prompt {index}" for index in range(count)]
    return score(
        resolve([f"{path}:f"]), None, prompts, completions, answers or [None] * count, columns, on_error=on_error
    )


def refused(*names: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(names)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------------- the named


@pytest.mark.parametrize(
    ("name", "completion", "answer", "expected"),
    [
        ("exact_match", " Helsinki\n", "Helsinki", 1.0),
        ("exact_match", "helsinki", "Helsinki", 0.0),
        ("exact_match", "It is Helsinki", "Helsinki", 0.0),
        ("numeric_answer", "3 + 4 = 7", "7", 1.0),
        ("numeric_answer", "It is 7, not 8.", "7", 0.0),
        ("numeric_answer", "no number", "7", 0.0),
        ("numeric_answer", "That makes $1,234.50.", "Step by step ...\n#### 1234.5", 1.0),
        ("numeric_answer", "so \\boxed{42}, checked in 3 ways", "42", 1.0),
        ("numeric_answer", "a quarter, 1/4", "3/4", 0.0),
        ("contains_answer", "The capital is helsinki.", "Helsinki", 1.0),
        ("contains_answer", "New  York\nCity", "new york", 1.0),
        ("contains_answer", "The total is 16", "6", 0.0),
        ("contains_answer", "The total is 6.5 or 1,6", "6", 0.0),
        ("contains_answer", "The total is 6.", "6", 1.0),
        ("contains_answer", "category", "cat", 0.0),
        ("contains_answer", "首都是北京。", "北京", 1.0),
        ("contains_answer", "C++?", "c++", 1.0),
        ("format:<think>.*</think>.+", "<think>a\nb</think> 7\n", None, 1.0),
        ("format:<think>.*</think>", "<think>a</think> 7", None, 0.0),  # the whole completion, no less
        ("format:a:b", "a:b", None, 1.0),
        ("length:10", "x" * 10, None, 1.0),
        ("length:10", "x" * 6, None, 0.6),
        ("length:10", "x" * 13, None, 0.7),
        ("length:10", "", None, 0.0),
        ("length:10", "x" * 50, None, 0.0),
    ],
)
def test_named_rewards(name, completion, answer, expected):
    assert values(name, completion, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7), ("7.", 7), ("7.0", 7), (".5", "1/2"), ("-3", -3), ("−3", -3), ("it is -3.25!", "-13/4"), ("10-5", 5),
        ("x - 5", 5), ("= -5", -5), ("-$5", -5), ("$-5", -5), ("1,234,567.25", "4938269/4"), ("1, 2, 3", 3),
        ("12,34", 34), ("3/4", "3/4"), ("-3/4", "-3/4"), ("1/0", None), ("2e3", 2000), ("1.5E-1", "3/20"), ("50%", 50),
        ("5km", 5), ("7 for H2O", 7), ("答案是7。", 7), ("", None), ("none", None), ("\\frac{3}{4}", "3/4"),
        ("-\\dfrac{1}{2}", "-1/2"), ("\\boxed{7} of 8", 7), ("\\boxed{1} or \\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{1{,}000}", 1000), ("\\boxed{\\text{5 apples}} 6", 5), ("\\boxed{x} 6", None), ("\\boxed{12", 12),
        ("9" * 100_000, None), ("1e999999999", 1), ("\\$1{,}000", 1000),
    ],
)  # fmt: skip
def test_last_number(text, expected):
    found = last_number(text)
    if text == "1e999999999":  # no power of ten that would fill the memory
        assert found is None or abs(found) < 10**1000
    else:
        assert found == (None if expected is None else Fraction(expected))


@settings(max_examples=100, deadline=None)
@given(
    st.decimals(-(10**9), 10**9, places=3),
    st.sampled_from(["{}", "so {}.", "\\boxed{{{}}}", "x = {}\n", "1 + 1 is {}!"]),
)
def test_any_number_is_read_as_it_was_written(number, text):
    assert last_number(text.format(f"{number:,f}")) == last_number(text.format(f"{number:f}")) == Fraction(number)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789.,-/$\\{}eE boxedfrac−", max_size=60))
def test_no_text_breaks_a_reward(text):
    last_number(text)
    assert values("contains_answer", text, "7,") in (0.0, 1.0)


@pytest.mark.parametrize("name", ["exact_match", "numeric_answer", "contains_answer"])
@pytest.mark.parametrize("answer", [None, " "])
def test_a_row_without_an_answer_is_named(name, answer):
    with pytest.raises(RewardError, match=f"{name} failed on the prompt 'b'.* the row has none"):
        score(resolve([name]), None, ["a", "b"], ["1", "2"], ["1", answer], {})


def test_an_answer_without_a_number_is_named():
    with pytest.raises(RewardError, match="the answer 'Paris' has no number"):
        values("numeric_answer", "7", "Paris")


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exact_mach", "Did you mean exact_match?"),
        ("fromat:x", "Did you mean format:x?"),
        (
            "nothing_like_it",
            "exact_match, numeric_answer, contains_answer, format:REGEX, length:N, path.py:function or model:RUN",
        ),
        ("format", "format:REGEX"),
        ("format:(a", "no regular expression: missing )"),
        ("length", "whole number"),
        ("length:0", "whole number"),
        ("length:-3", "whole number"),
        ("length:1.5", "whole number"),
        ("exact_match:2", "there is no such reward"),
        ("nowhere.py:f", "there is no file"),
        ("nowhere.py", "nowhere.py:FUNCTION"),
        ("", "there is no such reward"),
    ],
)
def test_bad_names(name, said):
    assert said in refused(name)
    assert said in str(check([name])[0])


def test_all_mistakes_at_once():
    message = refused("exact_mach", "length:x", "exact_match", "exact_match")
    assert "3 mistakes" in message and "more than once" in message
    (mistake,) = check(["exact_match", "length:5"], [1.0])
    assert str(mistake).startswith("stage.reward_weights=[1.0]: 1 weights for 2 rewards (exact_match, length:5)")
    assert check(["exact_match", "length:5"], [1.0, 0.5]) == check(["exact_match"]) == check([]) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def g(completions): pass\ndef ff(): pass\n_h = 1", "has no function 'f'; it has ff, g."),
        ("", "has no function 'f'; it has none"),
        ("f = 3", "f in .* is a int, not a function"),
        ("async def f(completions): pass", "asynchronous"),
        ("def f(:", "is no Python: invalid syntax"),
        ("def f(completions): pass\nraise KeyError('no')", r"cannot be run: KeyError: 'no' \(.*mine.py, line 2\)"),
        ("import sys\ndef f(completions): pass\nsys.exit(3)", "cannot be run: SystemExit: 3"),
        ("from os.path import *", "cannot be run: AttributeError"),
    ],
)  # fmt: skip
def test_files_that_will_not_do(file, code, said):
    with pytest.raises(ConfigError, match=said):
        resolve([f"{file(code)}:f"])


def test_a_check_runs_no_code(file, tmp_path):
    path = file(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(completions): return [0.0]")
    assert check([f"{path}:f"]) == []
    assert "Did you mean f_long?" in str(check([f"{file('def f_long(): pass', 'b.py')}:f_lon"])[0])
    assert not (tmp_path / "ran").exists()


# ----------------------------------------------------------------------------------------------------------- of a file


def test_a_file_gets_everything_by_name(file):
    path = file(
        "from helper import half\n"
        "def f(prompts, completions, answers, level):\n"
        "    return [half(len(p + c + a) + l) for p, c, a, l in zip(prompts, completions, answers, level)]\n"
    )
    file("def half(x): return x / 2", "helper.py")
    found = of_file(path, "xy", "z", answers=["1", "22"], level=[10, 20], unused=[0, 0])
    assert found.totals == [(8 + 2 + 1 + 10) / 2, (8 + 1 + 2 + 20) / 2]


@pytest.mark.parametrize(
    "signature", ["completions, **kwargs", "completions, ground_truth, **kwargs", "completions, answer, extra=None"]
)
def test_trls_signatures(file, signature):
    path = file(f"def f({signature}):\n    return [float(len(c)) for c in completions]")
    assert of_file(path, "a", "bcd", answers=["1", "2"]).totals == [1.0, 3.0]


def test_two_functions_of_one_file_share_it(file):
    path = file("seen = []\ndef f(completions): seen.append(1); return [1.0]\ndef g(completions): return [len(seen)]")
    assert score(resolve([f"{path}:f", f"{path}:g"]), [10, 1], ["?"], ["x"], [None], {}).totals == [11.0]


@pytest.mark.parametrize(
    "given", ["numpy.array([1, 0])", "torch.tensor([1.0, 0.0])", "(True, False)", "[numpy.float32(1), torch.tensor(0)]"]
)
def test_what_counts_as_numbers(file, given):
    assert of_file(file(f"import numpy, torch\ndef f(completions): return {given}"), "a", "b").totals == [1.0, 0.0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1.0]", "returned 1 values for 2 completions; it must return a list"),
        ("return 1.0", "returned a float for 2 completions"),
        ("return None", "returned a NoneType for 2 completions"),
        ("return '12'", "returned a str for 2 completions"),
        ("return ['1', 2]", "gave '1' for the prompt 'prompt 0'"),
        ("return [1, float('nan')]", "gave nan for the prompt 'prompt 1' with the completion 'b'; only finite numbers"),
        ("return [1, float('-inf')]", "gave -inf"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_what_is_no_reward(file, body, said, on_error):
    with pytest.raises(RewardError, match=said):
        of_file(file(f"def f(completions): {body}"), "a", "b", on_error=on_error)


@pytest.mark.parametrize("signature", ["completions, solutions, **kwargs", "completions, solutions, /"])
def test_columns_that_the_rows_lack(file, signature):
    with pytest.raises(RewardError, match=r"asks for .*solutions, which the rows do not have.*prompts.*level"):
        of_file(file(f"def f({signature}): return [0.0]"), "a", level=[1])


# ------------------------------------------------------------------------------------------------------------- scoring


def test_weights_and_what_each_reward_gave():
    rewards = resolve(["exact_match", "length:4"])
    found = score(rewards, [2.0, 0.5], ["p", "q"], ["blue", "re"], ["blue", "red"], {})
    assert found.values == {"exact_match": [1.0, 0.0], "length:4": [1.0, 0.5]}
    assert found.totals == [2.5, 0.25]
    assert found.missing == {"exact_match": 0, "length:4": 0} and found.failures == {}
    assert score(rewards, None, ["p"], ["blue"], ["blue"], {}).totals == [2.0]
    assert score(rewards, None, [], [], [], {}).totals == []


def test_none_is_left_out_and_counted():
    odd = Reward("odd", lambda completions: [float(c) if int(c) % 2 else None for c in completions])
    found = score([odd], None, [""] * 3, ["1", "2", "3"], [None] * 3, {})
    assert found.values == {"odd": [1.0, None, 3.0]} and found.missing == {"odd": 1}
    assert math.isnan(found.totals[1]) and found.totals[::2] == [1.0, 3.0]
    (one,) = resolve(["length:1"])
    assert score([odd, one], [1.0, 10.0], [""] * 3, ["1", "2", "3"], [None] * 3, {}).totals == [11.0, 10.0, 13.0]


def test_a_failure_names_reward_prompt_and_exception(file):
    path = file("def f(completions, **_):\n    return [1 / (len(c) - 1) for c in completions]")
    with pytest.raises(RewardError) as caught:
        of_file(path, "aa", "b", "cc")
    message = str(caught.value)
    assert f"{path}:f failed on the prompt 'prompt 1' with the completion 'b'" in message
    assert f"ZeroDivisionError: division by zero ({path}, line 2)" in message
    assert isinstance(caught.value, FtlabError) and isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_failure_is_skipped_and_counted(file):
    path = file("def f(completions, **_):\n    return [1 / (len(c) - 1) for c in completions]")
    found = of_file(path, "aa", "b", "ccc", "d", on_error="skip")
    (name,) = found.values
    assert found.values[name] == [1.0, None, 0.5, None] and found.missing[name] == 2
    assert "'prompt 1'" in found.failures[name]


def test_a_failure_of_the_batch_alone(file):
    path = file("def f(completions):\n    assert len(completions) < 2, 'one at a time'\n    return [1.0]")
    with pytest.raises(RewardError, match="2 completions at once, though on none of them alone: AssertionError: one"):
        of_file(path, "a", "b")
    assert of_file(path, "a", "b", on_error="skip").missing == {f"{path}:f": 2}


def test_long_prompts_are_shortened_and_conversations_shown_by_their_last_message():
    def fail(completions):
        raise ValueError("no")

    conversation = [{"role": "user", "content": "first"}, {"role": "user", "content": "x" * 500}]
    with pytest.raises(RewardError, match=r"prompt 'x{76}\.\.\. with") as caught:
        score([Reward("mine", fail)], None, [conversation], ["y" * 500], [None], {})
    assert len(str(caught.value)) < 400


def test_a_failure_survives_the_way_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(RewardError("as it was")))
    assert isinstance(error, RewardError) and str(error) == "as it was"


def test_resolving_imports_no_torch(env):
    code = (
        "import sys; from ftlab.stages.rewards.resolve import resolve; from ftlab.stages.rewards.scoring import score;"
        "r = resolve(['exact_match', 'numeric_answer', 'length:3', 'format:a+']);"
        "score(r, None, ['p'], ['7'], ['7'], {}); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False False", done.stderr
