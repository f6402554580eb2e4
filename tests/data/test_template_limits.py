"""Templates that never end, fill the memory, call themselves or fail: one refusal, in whichever thread or process."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time

import pytest

from ftlab.data.formats import Conversation, RowError
from ftlab.data.tokens.shipped_templates import read_template, template_names
from ftlab.data.tokens.template_trial import SECONDS, trial_problem
from ftlab.data.tokens.templates import Template
from ftlab.data.tokens.time_limit import TooSlow, run_limited
from ftlab.errors import NotReadyError
from ftlab.policy.tokens import load_tokens
from tests.conftest import ROOT
from tests.data.helpers import options, turns
from tests.runs import make_run

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ANSWER = "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
EACH = "{% for m in messages %}{% if m.role == 'assistant' %}" + ANSWER + "{% else %}{{ m.content }}"
# What it does depends on the row, so no trial can show it.
SOMETIMES = EACH + "{% if m.content == 'go' %}" + LOOPS + "{% endif %}{% endif %}{% endfor %}"
HARM = {
    "loops that write": (LOOPS.replace("%}{% endfor", "%}x{% endfor", 1), "makes more than 4,194,304 characters"),
    "a long text": ("{{ 'x' * 10**12 }}", "takes more than 1 GiB of memory"),
    "a long list": ("{% set x = (range(99999) | list) * 99999 %}", "takes more than 1 GiB of memory"),
    "a wide field": ("{{ 'x' | center(10**11) }}", "takes more than 1 GiB of memory"),
    "itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself without end"),
    "nested": ("{{" + "(" * 3000 + "1" + ")" * 3000 + "}}", "calls itself without end, or is nested too deep"),
    "zero": ("{{ 1 // 0 }}", "fails on a few short turns: integer division or modulo by zero"),
    "overflow": ("{{ 10.0 ** 400 }}", "fails on a few short turns: (34, 'Numerical result out of range')"),
}


@pytest.mark.parametrize("name", HARM)
def test_a_template_that_does_harm_is_found_in_a_process_of_its_own(name):
    source, problem = HARM[name]
    assert trial_problem(source).startswith(problem)


@pytest.mark.matrix
def test_a_template_that_never_ends_is_stopped():
    assert trial_problem(LOOPS) == f"does not end: it was stopped after {SECONDS} s of computing"


def test_a_template_that_refuses_the_turns_of_the_trial_does_none():
    for source in (
        SOMETIMES,
        "{{ raise_exception('no') }}",
        "{{ messages[9].content }}",
        "{% x %}{{",
        "{{ 1 + 'a' }}",
    ):
        assert trial_problem(source) is None


def test_the_refusal_names_the_file_and_what_to_do(tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(ROOT / "models" / "tiny", folder)
    file = folder / "chat_template.jinja"
    source, problem = HARM["itself"]
    file.write_text(read_template("chatml") + source)
    with pytest.raises(NotReadyError) as caught:
        load_tokens(make_run(f"model.path={folder}", "model.template=null"))
    assert str(caught.value).startswith(f"The chat template of {file} {problem}")
    assert str(caught.value).endswith("Mend it, or name a shipped one: model.template=NAME (chatml is the nearest).")
    named = load_tokens(make_run(f"model.path={folder}", "model.template=chatml"))
    assert named.template.source == read_template("chatml")


def test_a_template_that_is_none_is_told_once_with_its_line():
    with pytest.raises(NotReadyError, match=r"of acme/m cannot be read: line 2: unexpected '}'\. Mend it, or name a"):
        Template("{% generation %}\n{{ } }}{% endgeneration %}", {}, "acme/m")


@pytest.mark.parametrize("source", ["{{ 1 // 0 }}", "{{ 10.0 ** 400 }}", HARM["itself"][0], "{{ {}['a']['b'] }}"])
def test_what_fails_on_a_row_is_the_rows_problem(source):
    template = Template(EACH + "{% if m.content == 'go' %}" + source + "{% endif %}{% endif %}{% endfor %}", {}, "here")
    assert template.render(Conversation(turns("1", "2"))).text == "12<|im_end|>"
    with pytest.raises(RowError, match=r"^the chat template (fails on|refuses) it: "):
        template.render(Conversation(turns("go", "2")))


def test_a_row_that_never_ends_stops_in_any_thread():
    template = Template(SOMETIMES, {}, "acme/m", seconds=0.5)
    told: list[str] = []

    def render() -> None:
        with pytest.raises(NotReadyError) as caught:
            template.render(Conversation(turns("go", "2")))
        told.append(str(caught.value))

    threads = [threading.Thread(target=render) for _ in range(2)]
    for thread in threads:
        thread.start()
    render()
    for thread in threads:
        thread.join()
    assert len(told) == 3 and set(told) == {
        "The chat template of acme/m needs more than 0.5 s of a conversation. Mend it, or name a shipped one: "
        "model.template=NAME (chatml is the nearest)."
    }
    assert template.render(Conversation(turns("1", "2"))).text == "12<|im_end|>", "and goes on"


def test_the_row_is_named_and_the_run_ends(bench, write):
    path = write("rows.jsonl", [{"messages": turns("1", "2")}, {"messages": turns("go", "2")}])
    template = Template(SOMETIMES, {}, "acme/m", seconds=0.5)
    with pytest.raises(NotReadyError, match=r"rows\.jsonl, row 2: The chat template of acme/m needs more than 0\.5 s"):
        bench.prepare(*options("messages", path, "data.on_invalid=drop"), template=template)


@pytest.mark.matrix
def test_the_same_in_worker_processes(bench, write):
    path = write("rows.jsonl", [{"messages": turns("1", "2")}, {"messages": turns("go", "2")}])
    template = Template(SOMETIMES, {}, "acme/m", seconds=0.5)
    with pytest.raises(NotReadyError, match=r"rows\.jsonl, row 2: The chat template of acme/m needs more than 0\.5 s"):
        bench.prepare(*options("messages", path, "data.workers=2"), template=template)


def test_a_limit_that_is_not_reached_changes_nothing():
    assert [run_limited(5, str, i) for i in range(3)] == ["0", "1", "2"]
    with pytest.raises(KeyError):
        run_limited(5, lambda: {}["a"])

    def count(until: float) -> str:
        while time.monotonic() < until:
            pass
        return "counted"

    until = time.monotonic() + 0.7
    while time.monotonic() < until:  # ends about when its time does, whenever the other thread looks
        with contextlib.suppress(TooSlow):
            assert run_limited(0.001, count, time.monotonic() + 0.0011) == "counted"
    assert sum(number for number in range(100_000)) == 4_999_950_000, "no exception comes late"


def test_shipped_templates_need_no_trial(bench):
    begun = trial_problem.cache_info().misses
    for name in template_names():
        bench.tokenizer.chat_template, own = read_template(name), bench.tokenizer.chat_template
        try:
            Template.for_tokenizer(bench.tokenizer)
        except NotReadyError:
            pass
        finally:
            bench.tokenizer.chat_template = own
    Template.for_tokenizer(bench.tokenizer)
    assert trial_problem.cache_info().misses == begun
