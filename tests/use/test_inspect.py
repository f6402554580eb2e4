"""``ftlab inspect``: rows as text and ids with their masks, the ledger, the page, and the round trip."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import socket
import threading
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ftlab.config import command_line
from ftlab.config.compose import compose, validate
from ftlab.data.sources.blocks import BLOCK_ROWS
from ftlab.errors import ConfigError, DataError, NotReadyError, RunDirError
from ftlab.use.inspect.command import inspect
from tests.walkthrough import COLUMNS, LINES, Said

TINY = Path(__file__).resolve().parents[2] / "models" / "tiny"
ALPACA = ("data.path=my.jsonl", "data.format=alpaca", "data.split.fraction=0")


pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def inspected(capsys):
    """What ``ftlab inspect ...`` prints."""

    def run(*argv: str) -> str:
        inspect(validate(compose(command_line.read(["inspect", *argv]).overrides)), argv)
        return capsys.readouterr().out

    return run


def write(name: str, *rows: object) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def asked(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


@pytest.fixture
def tokenizer_only(here):
    """A folder with the tiny model's tokenizer, no weights, and perhaps another template."""

    def make(template: str | None = None) -> str:
        folder = here / "tokenizer"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(TINY / name, folder / name)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return f"model.path={folder}"

    return make


EXACT = f"""\
data       my (alpaca): 2 rows of train from my.jsonl
template   the tokenizer's own
tokenizer  {TINY}: 2,304 tokens; <|im_end|> or <|endoftext|> ends an answer, <|pad|> pads
reading    ⟦ ⟧ enclose what is trained; ↵ is a line break, → a tab, · a space at an edge, \
<U+00A0> a character that shows nothing

my.jsonl:1   18 tokens, 2 trained
<|im_start|>user↵
Say seven.<|im_end|>↵
<|im_start|>assistant↵
⟦7<|im_end|>⟧↵
ids: 2 343 202 54 324 265 72 89 290 17 3 202 2 342 202 ⟦26 3⟧ 202

my.jsonl:2   25 tokens, 5 trained
<|im_start|>user↵
Two lines·↵
please.<|im_end|>↵
<|im_start|>assistant↵
⟦one↵
two<|im_end|>⟧↵
ids: 2 343 202 55 446 298 264 288 224 202 553 275 72 17 3 202 2 342 202 ⟦628 202 87 446 3⟧ 202

data: my
split  rows  kept  dropped  cut  tokens  trained  masked  cut tokens  packed   fill
train     2     2        0    0      43        7      36           0       1  16.8%

train: tokens of a sample before it is cut
"""


def test_all_of_it_for_a_small_file(inspected):
    write("my.jsonl", asked("Say seven.", "7"), asked("Two lines \nplease.", "one\ntwo"))
    lines = [line.rstrip() for line in inspected(*ALPACA).splitlines()]
    table = next(i for i, line in enumerate(lines) if line.startswith("split "))
    wanted = EXACT.splitlines()
    assert lines[: table - 1] == wanted[: wanted.index("data: my")]
    columns = dict(zip(lines[table].split(), lines[table + 1].split()))
    assert {name: columns[name] for name in ("rows", "kept", "tokens", "trained", "fill")} == {
        "rows": "2", "kept": "2", "tokens": "43", "trained": "7", "fill": "16.8%",
    }  # fmt: skip
    assert lines[table + 3] == "train: tokens of a sample before it is cut"
    assert lines[table + 4].startswith("p0 18  p25 18  p50 18") and lines[table + 4].endswith("p100 25")
    bars = [line.split() for line in lines[table + 5 : -2]]
    assert sum(int(bar[3]) for bar in bars) == 2 and {len(bar[4]) for bar in bars if len(bar) > 4} == {40}
    assert lines[-2:] == ["", "2 rows read back as the tokenizer's own template writes them"]


def test_on_a_terminal_what_is_trained_has_a_ground_of_its_own(inspected, monkeypatch):
    write("my.jsonl", asked("Say seven.", "7\n8"))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    said = inspected(*ALPACA)
    assert "\x1b[30;42m7↵\x1b[0m\n\x1b[30;42m8\x1b[0m\x1b[1;30;42m<|im_end|>\x1b[0m↵\n" in said
    assert "\x1b[30;42m26 202 27\x1b[0m\x1b[30;42m \x1b[0m\x1b[1;30;42m3\x1b[0m 202\n" in said
    assert "reading    \x1b[30;42mgreen\x1b[0m is what is trained" in said and "⟦" not in said
    monkeypatch.setenv("NO_COLOR", "1")
    assert "⟦7↵\n8<|im_end|>⟧↵\n" in inspected(*ALPACA)


def test_a_character_of_several_tokens_is_whole(inspected):
    write("my.jsonl", asked("Ünï 🙂?", "漢字 🙂"))
    said = inspected(*ALPACA)
    assert "Ünï 🙂?<|im_end|>↵\n" in said and "⟦漢字 🙂<|im_end|>⟧↵\n" in said and "�" not in said


def test_what_cannot_be_seen_is_drawn_and_marks_are_not_to_be_confused(inspected):
    write("my.jsonl", asked("a\u00a0b\tc \x1b[31md\u200b", " ⟦x⟧ "), asked(":smile: [bold]x[/bold]", "y"))
    said = inspected(*ALPACA)
    assert "reading    ⟪ ⟫ enclose what is trained" in said
    assert re.search(r"^a<U\+00A0>b→ +c <U\+001B>\[31md<U\+200B><\|im_end\|>↵$", said, re.MULTILINE)
    assert "⟪·⟦x⟧·<|im_end|>⟫↵" in said
    assert "\n:smile: [bold]x[/bold]<|im_end|>↵\n" in said


def test_the_middle_of_a_long_row_is_left_out_and_counted(inspected):
    write("my.jsonl", asked("Say much.", " ".join(["7"] * 600)))
    given = (*ALPACA, "data.max_length=2000")
    said = inspected(*given)
    counts = re.search(r"my.jsonl:1   ([\d,]+) tokens, ([\d,]+) trained", said).groups()
    total, trained = (int(count.replace(",", "")) for count in counts)
    ids = said.split("ids: ")[1].split("\n")[0]
    before = total - trained - 1  # a line break follows
    left_out = total - 64
    assert before < 32
    assert f"[... {left_out:,} ids left out, {left_out:,} of them trained; full=true shows all ...]" in ids
    assert len(re.sub(r"\[\.\.\. .* \.\.\.\]|[⟦⟧]", "", ids).split()) == 64
    assert f"[... {total - 1000:,} tokens left out, {total - 1000:,} of them trained; full=true" in said
    everything = inspected(*given, "full=true")
    ids = everything.split("ids: ")[1].split("\n")[0]
    assert len(re.sub("[⟦⟧]", "", ids).split()) == total and "left out" not in everything
    assert len(ids.split("⟦")[1].split("⟧")[0].split()) == trained


# --- every kind of row -----------------------------------------------------------------------------------------------


def test_a_pair_shows_both_answers(inspected):
    write("my.jsonl", {"prompt": "Say seven.", "chosen": "7", "rejected": "8"})
    said = inspected("stage=dpo", "data.path=my.jsonl", "data.format=preference", "data.split.fraction=0")
    assert "my.jsonl:1   chosen   18 tokens, 2 trained\n" in said and "⟦7<|im_end|>⟧↵" in said
    assert "my.jsonl:1   rejected   18 tokens, 2 trained\n" in said and "⟦8<|im_end|>⟧↵" in said
    assert said.endswith("\n1 row read back as the tokenizer's own template writes them\n")


def test_what_the_template_leaves_out_of_a_row_is_said_of_the_row(inspected):
    question, answer = {"role": "user", "content": "1?"}, {"role": "assistant", "content": "1."}
    thinking = {**answer, "reasoning_content": "One."}
    write("my.jsonl", {"messages": [question, thinking, {**question, "name": "Ada"}, answer]})
    said = inspected("data.path=my.jsonl", "data.format=messages", "data.split.fraction=0", "html=page.html")
    line = "left out by the template: reasoning of earlier turns (message 2); names (message 3)"
    assert re.search(r"my\.jsonl:1   \d+ tokens, \d+ trained\n" + re.escape(line) + r"\n<\|im_start\|>user", said)
    assert f'<p class="gap">{line}</p>' in Path("page.html").read_text()
    assert "train: 1 of 1 rows: the template leaves out names, first my.jsonl:1. If the model is to know" in said


def test_labelled_answers_prompts_and_texts(inspected):
    write("kto.jsonl", *({"prompt": "Say.", "completion": "7", "label": label} for label in (True, False)))
    said = inspected("stage=kto", "data.path=kto.jsonl", "data.format=kto", "data.split.fraction=0")
    assert re.findall(r"kto.jsonl:\d   label: (\w+) ", said) == ["good", "bad"]
    write("ask.jsonl", {"prompt": "Say seven.", "answer": 7}, {"prompt": "Say."})
    said = inspected("stage=ppo", "data.path=ask.jsonl", "data.format=prompts", "data.split.fraction=0")
    assert "ask.jsonl:1   prompt; answer: 7   15 tokens, none trained\n" in said
    assert "ask.jsonl:2   prompt; no answer   " in said and "<|im_start|>assistant↵\nids: " in said
    write("text.jsonl", {"text": "one two three. " * 40})
    given = ("stage=pt", "data.path=text.jsonl", "data.format=text", "data.split.fraction=0")
    said = inspected(*given, "data.max_length=32", "data.overlap=4")
    chunks = re.findall(r"text.jsonl:1   chunk (\d+) of (\d+)( \(.*\))?   (\d+) tokens, (\d+) trained\n", said)
    assert [(chunk[0], *chunk[3:]) for chunk in chunks[:2]] == [("1", "32", "31"), ("2", "32", "28")]
    assert len(chunks) == 3 and chunks[2][0] == chunks[2][1]
    assert chunks[2][2] == f" (3 to {int(chunks[2][1]) - 1} left out; full=true shows all)"
    assert "template   none: each text ends with <|endoftext|>" in said and "<|endoftext|>⟧\n" in said
    assert said.endswith("\n1 row read back as the tokenizer writes them\n")
    assert inspected(*given, "data.max_length=32", "full=true").count("   chunk ") == 6


@pytest.mark.parametrize(
    "given",
    [
        ("data.train_on=last",), ("data.train_on=all",), ("data.max_length=40", "data.truncation=turns"),
        ("data.max_length=40", "data.truncation=left"), ("data.max_length=40",), ("data.packing=false",),
        ("data.num_samples=9",), ("model.template=llama3",), ("model.template=zephyr",), ("model.template=llama2",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_conversations_read_back_under_every_policy(given, inspected):
    turns = [{"role": role, "content": f"{role} says {i}"} for i in range(3) for role in ("user", "assistant")]
    system = [{"role": "system", "content": "Be brief."}]
    write("my.jsonl", {"messages": turns}, {"messages": turns[:2]}, {"messages": [*system, *turns[:4]]})
    said = inspected("data.path=my.jsonl", "data.format=messages", "data.split.fraction=0", *given)
    result = said.splitlines()[-1]
    if "data.max_length=40" not in given:
        assert result == "3 rows read back as the tokenizer's own template writes them"
    elif len(given) == 1:
        assert re.fullmatch(r"3 rows read back as .* writes them, 2 of them to where data.max_length=40 cuts", result)
    else:
        policy = given[1].partition("=")[2]
        assert result == (
            f"1 row read back as the tokenizer's own template writes them; 2 that data.truncation={policy} "
            "shortens to data.max_length=40 not compared"
        )
    marked = re.findall(r"⟦[^⟧]*⟧", said.split("ids: ")[0].split("tokens, ")[-1])
    if given == ("data.train_on=last",):
        assert marked == ["⟦assistant says 2<|im_end|>⟧"]
    if given == ("data.packing=false",):
        assert marked == [f"⟦assistant says {i}<|im_end|>⟧" for i in range(3)]


@pytest.mark.parametrize("given", [("data.packing=wrapped",), ("data.overlap=7",), ("data.num_samples=11",)])
def test_texts_read_back_however_they_are_cut(given, inspected):
    write("my.jsonl", *({"text": f"line {n}\n" * n} for n in (1, 9, 30, 64)))
    said = inspected(
        "stage=pt", "data.path=my.jsonl", "data.format=text", "data.split.fraction=0", "data.max_length=32", *given
    )
    assert said.endswith("\n4 rows read back as the tokenizer writes them\n")


def test_each_set_of_a_mix_is_shown_and_counted(inspected):
    write("a.jsonl", *(asked(f"Say {n}.", str(n)) for n in range(9)))
    write("b.jsonl", *(asked(f"Tell {n}.", str(n)) for n in range(4)))
    entries = (f"{name}:\n  format: alpaca\n  files: {{train: {name}.jsonl}}\n" for name in "ab")
    Path("both.yaml").write_text("".join(entries))
    said = inspected("data.name=[a,b]", "data.registry=both.yaml", "data.split.validation=none", "rows=1", "check=5")
    assert re.findall(r"^(\w+\.jsonl):(\d)   ", said, re.MULTILINE) == [("a.jsonl", "1"), ("b.jsonl", "1")]
    assert said.startswith(
        "data       a (alpaca): 9 rows of train from a.jsonl\ndata       b (alpaca): 4 rows of train from b.jsonl\n"
    )
    assert said.endswith("\n9 rows read back as the tokenizer's own template writes them\n")


def test_another_split_and_how_many(inspected):
    said = inspected("split=golden", "rows=2", "check=7")
    assert said.startswith("data       instructions (alpaca): 200 rows of golden from ")
    assert len(re.findall(r"^\S+golden.jsonl:\d   ", said, re.MULTILINE)) == 2
    assert said.endswith("\n7 rows read back as the tokenizer's own template writes them\n")
    assert inspected("rows=0", "check=0").endswith("\nnot read back (check=0)\n")


def test_it_finds_what_an_earlier_command_prepared(inspected):
    write("my.jsonl", asked("Say seven.", "7"))
    assert "prepared before" not in inspected(*ALPACA)
    assert "data: my  (prepared before; nothing has changed)" in inspected(*ALPACA)


# --- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The text of every ``pre`` by its class, that of trained stretches, and what is open at the end."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.texts: list[list[str]] = []
        self.trained: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag in ("meta", "td"):
            return
        self.open.append((tag, dict(attributes).get("class", "")))
        if tag == "pre":
            self.texts.append([])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "pre" for tag, _ in self.open):
            self.texts[-1].append(data)
            if any("trained" in classes for _, classes in self.open):
                self.trained.append(data)


def test_the_page_has_what_the_terminal_shows(inspected):
    write("my.jsonl", asked("Is 1 < 2 & <b>so</b>?", 'yes\nit "is"'), asked("Say seven.", "7"))
    said = inspected(*ALPACA, "html=out/page.html")
    assert said.endswith("\nwritten to out/page.html\n")
    text = Path("out/page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.addresses == [] and "http" not in text
    assert [path.name for path in Path("out").iterdir()] == ["page.html"]
    rows, ids = said.split("\nmy.jsonl:1   ")[1].split("\ndata: my")[0], re.findall(r"ids: (.*)", said)
    shown = ["".join(parts) for parts in page.texts]
    for part in (shown[0], shown[2]):
        assert part.rstrip("\n") in re.sub("[⟦⟧]", "", rows)
    assert [shown[1], shown[3]] == [re.sub("[⟦⟧]", "", line) for line in ids]
    drawn = 'yes↵\nit "is"<|im_end|>', _trained(ids[0]), "7<|im_end|>", _trained(ids[1])
    assert "".join(page.trained) == "".join(drawn)
    assert "train: tokens of a sample before it is cut" in shown[4]
    assert "<td>my (alpaca): 2 rows of train from my.jsonl</tr>" in text and "</span> is what is trained" in text
    assert "prefers-color-scheme: dark" in text
    assert html.escape("2 rows read back as the tokenizer's own template writes them") in text


def _trained(ids: str) -> str:
    """Trained ids as the page has them: what is between two coloured pieces has no colour of its own."""
    inner = ids.split("⟦")[1].split("⟧")[0].split()
    return " ".join(inner[:-1]) + inner[-1]


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_weights_are_neither_needed_nor_read(inspected, tokenizer_only, monkeypatch):
    import transformers

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("inspect loads no weights")

    for name in ("AutoModelForCausalLM", "AutoModel", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", refuse)
        monkeypatch.setattr(getattr(transformers, name), "from_config", refuse)
    write("my.jsonl", asked("Say seven.", "7"))
    said = inspected(*ALPACA, tokenizer_only())
    assert "⟦7<|im_end|>⟧↵" in said
    assert said.endswith("\n1 row read back as the tokenizer's own template writes them\n")


def test_a_damaged_cache_is_prepared_anew(inspected, here):
    write("my.jsonl", asked("Say six.", "6"), asked("Say seven.", "7"))
    inspected(*ALPACA)
    (ids,) = (here / "cache").glob("data/*/train/ids*")
    stored = bytearray(ids.read_bytes())
    stored[-8] ^= 1
    ids.unlink()  # it may be mapped into memory
    ids.write_bytes(stored)
    shown = inspected(*ALPACA)
    assert "train/ids.i32 of the data cache was damaged: prepared anew" in shown
    assert "2 rows read back" in shown


CLOCK = (
    "{{ strftime_now('%f') }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
)


def test_a_template_that_writes_the_time_is_served_as_something_else(inspected, tokenizer_only):
    write("my.jsonl", asked("Say seven.", "7"))
    with pytest.raises(DataError) as caught:
        inspected(*ALPACA, tokenizer_only(CLOCK))
    first, _, _, advice = str(caught.value).splitlines()
    assert re.fullmatch(r"my.jsonl:1: what is prepared is not what the tokenizer writes, first at token \d:", first)
    assert advice.startswith("The template writes the date of the day") and advice.endswith("model.template=NAME.")


def test_an_answer_without_an_end_is_found(inspected, tokenizer_only):
    write("my.jsonl", asked("Say seven.", "banana"))
    template = CLOCK.replace("{{ strftime_now('%f') }}", "").replace("<|im_end|>{% endg", "{% endg")
    with pytest.raises(DataError) as caught:
        inspected(*ALPACA, tokenizer_only(template))
    assert str(caught.value) == (
        "my.jsonl:1: a trained answer does not end with '<|endoftext|>': 'banana'\n"
        "Name a template whose turns end with a token of their own: model.template=NAME."
    )


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (("split=test",), ConfigError, "task.split=test: this data has no such split. It has: train."),
        (("html=my.jsonl/page.html",), NotReadyError, "task.html=my.jsonl/page.html cannot be written: "),
        (("model.path=/nowhere/x",), NotReadyError, "model.path=/nowhere/x: the tokenizer cannot be loaded: "),
        (("data.columns.output=reply",), DataError, "my.jsonl, row 1: has no column 'reply'; it has "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(given, error, said, inspected):
    write("my.jsonl", asked("Say seven.", "7"))
    with pytest.raises(error) as caught:
        inspected(*ALPACA, *given)
    assert said in str(caught.value)


def test_a_page_takes_the_place_of_no_pipe(inspected):
    write("my.jsonl", asked("Say seven.", "7"))
    os.mkfifo("page.html")
    with pytest.raises(NotReadyError, match=r"task.html=page.html is there and is no file"):
        inspected(*ALPACA, "html=page.html")
    assert Path("page.html").is_fifo()


def test_a_file_in_place_of_a_run_is_told_with_the_command_that_shows_its_rows(inspected):
    Path("my rows.jsonl").write_text("{}\n")
    with pytest.raises(RunDirError) as caught:
        inspected("my rows.jsonl")
    assert str(caught.value) == (
        "my rows.jsonl is a file, not a run. Its rows: ftlab inspect 'data.path=my rows.jsonl' data.format=FORMAT; "
        "which format that is: ftlab init 'my rows.jsonl'"
    )


@pytest.mark.parametrize("kind", ["a FIFO (a named pipe)", "a socket"])
def test_what_is_no_file_in_place_of_a_run_is_told_in_words(inspected, kind):
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("odd.jsonl")
    else:
        os.mkfifo("odd.jsonl")
    with pytest.raises(RunDirError) as caught:
        inspected("odd.jsonl")
    assert str(caught.value) == f"odd.jsonl is {kind}, not a run. Write its rows into a file first."


def test_the_task_takes_its_keys_bare_named_and_as_flags():
    for given in (["inspect", "html=x", "full=true"], ["task=inspect", "inspect.html=x", "--full"]):
        task = validate(compose(command_line.read(given).overrides)).task
        assert (task.name, task.html, task.full) == ("inspect", "x", True)


PAIR = {"prompt": "Say seven.", "chosen": "7", "rejected": "eight"}
BEGINNINGS = {
    "alpaca, one too long": ("sft", "alpaca", [asked("Say.", "word " * 80), *[asked("Say.", "7")] * 4]),
    "pairs": ("dpo", "preference", [PAIR] * 3),
    "labels": ("kto", "kto", [{"prompt": "Say.", "completion": str(i), "label": i % 2 == 0} for i in range(4)]),
    "texts in chunks": ("pt", "text", [{"text": "some words " * 60}, {"text": "few"}]),
    "prompts": ("grpo", "prompts", [{"prompt": f"Say {i}.", "answer": str(i)} for i in range(3)]),
}  # fmt: skip


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_rows_that_are_shown_first_are_those_that_are_prepared(name, inspected):
    """With a page to write they are shown once all are prepared."""
    stage, kind, rows = BEGINNINGS[name]
    write("my.jsonl", *rows)
    given = (f"stage={stage}", "data.path=my.jsonl", f"data.format={kind}", "data.split.fraction=0", "rows=3",
             "data.max_length=40", "data.truncation=drop", "data.cache=null")  # fmt: skip
    late = inspected(*given, "html=page.html")
    assert f"{inspected(*given)}written to page.html\n" == late


def test_rows_are_shown_before_all_of_them_are_prepared(capsys, inspected):
    """Here one that stops the preparation, far behind what is shown."""
    write("my.jsonl", *(asked(f"Say {i}.", str(i)) for i in range(1200)), {"instruction": "no output"})
    with pytest.raises(DataError, match=r"my\.jsonl, row 1201"):
        inspected(*ALPACA, "rows=2")
    said = capsys.readouterr().out
    assert "Say 0." in said and "my.jsonl:2   " in said and "reading " in said
    with pytest.raises(DataError, match=r"my\.jsonl, row 1201"):
        inspected(*ALPACA, "html=page.html")
    assert capsys.readouterr().out == "" and not Path("page.html").exists()


def test_rows_that_are_mixed_or_left_out_are_shown_once_that_is_known(inspected):
    """Of one set interleaving takes two rows, of the other all three, wherever the first thousand rows lie."""
    write("a.jsonl", *(asked("Too long.", "word " * 80) for _ in range(1100)), asked("Say 1.", "1"))
    shown = inspected("data.path=a.jsonl", *ALPACA[1:], "data.max_length=40", "data.truncation=drop", "rows=1")
    assert shown.count("a.jsonl:1101   ") == 1 and shown.count("tokens, ") == 1


# --- a terminal of 24 lines ------------------------------------------------------------------------------------------


@pytest.fixture
def in_terminal(monkeypatch):
    """What ``ftlab inspect ...`` writes to a terminal of 80 columns and 24 lines; code 1 if it refuses the data."""

    def run(*argv: str) -> Said:
        monkeypatch.setenv("COLUMNS", str(COLUMNS))
        monkeypatch.setenv("LINES", str(LINES))
        monkeypatch.setenv("TERM", "xterm-256color")
        outer, inner = os.openpty()
        said, code = bytearray(), 0
        reader = threading.Thread(target=lambda: said.extend(b"".join(iter(partial(_read_terminal, outer), b""))))
        reader.start()
        with os.fdopen(inner, "w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                inspect(validate(compose(command_line.read(["inspect", *argv]).overrides)), argv)
            except DataError:
                code = 1
        reader.join()
        os.close(outer)
        return Said(code, said.decode())

    return run


def _read_terminal(outer: int) -> bytes:
    try:
        return os.read(outer, 65536)
    except OSError:  # nobody writes any more
        return b""


def test_the_rows_are_the_last_thing_in_a_terminal_and_the_first_to_be_seen(in_terminal):
    write("my.jsonl", *(asked(f"Say {i}.", f"{i}") for i in range(20)))
    said = in_terminal(*ALPACA)
    frames, end = said.frames, said.text.split("\n")
    titles = [f"my.jsonl:{row}   16 tokens" for row in (1, 2, 3)]
    is_title = [[at for at, line in enumerate(end) if line.startswith(title)] for title in titles]
    assert all(len(at) == 1 for at in is_title), "what was shown early is taken back"
    assert end[-1] == "20 rows read back as the tokenizer's own template writes them"
    assert len(end) - is_title[1][0] < LINES, "the last two rows stand in the terminal from their top on"
    assert max(at for at, line in enumerate(end) if "█" in line) < is_title[0][0]
    first = next(at for at, line in enumerate(frames) if line.startswith(titles[0]))
    assert first < next(at for at, line in enumerate(frames) if "preparing train" in line)
    assert first < next(at for at, line in enumerate(frames) if line.startswith("split "))


def test_what_is_shown_early_stays_where_the_rest_of_the_data_is_refused(in_terminal):
    write("my.jsonl", *(asked(f"Say {i}.", f"{i}") for i in range(BLOCK_ROWS)), {"instruction": 7})
    said = in_terminal(*ALPACA)
    assert said.code == 1 and "\nmy.jsonl:1   16 tokens, 2 trained\n<|im_start|>user" in said.text


def test_a_long_row_is_cut_in_the_middle_until_a_terminal_holds_it(in_terminal):
    write("my.jsonl", asked("Say much.", " ".join(["seven"] * 400)))
    end = in_terminal(*ALPACA, "data.max_length=2000").text.split("\n")
    title = next(at for at, line in enumerate(end) if line.startswith("my.jsonl:1   "))
    assert len(end) - title < LINES and "tokens left out" in "".join(end[title:])
    end = in_terminal(*ALPACA, "data.max_length=2000", "full=true").text.split("\n")
    title = next(at for at, line in enumerate(end) if line.startswith("my.jsonl:1   "))
    assert " ".join(end[title:]).count("seven") == 400


def test_as_json_rows_have_their_tokens_and_the_ledger(inspected):
    write("mine.jsonl", *(asked(f"Say {n}.", str(n)) for n in range(4)), {"instruction": "no answer"})
    said = json.loads(inspected(
        "data.path=mine.jsonl", "data.format=alpaca", "data.on_invalid=drop", "data.split.validation=none", "rows=2",
        "format=json",
    ))  # fmt: skip
    assert said["failure"] is None
    assert len(said["samples"]) == 2
    trained = "".join(piece["text"] for piece in said["samples"][0]["text"] if piece["trained"])
    assert trained.startswith("0<|im_end|>")
    rows = said["ledger"]["splits"]["train"]["rows"]
    assert (rows["kept"], rows["dropped"]) == (4, 1)
    assert said["facts"]["template"] == "the tokenizer's own"
