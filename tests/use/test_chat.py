"""``ftlab chat``: what models answer, what commands do, what is saved and read, and what is refused."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.errors import ConfigError, DataError, Interrupted, NotReadyError, RunDirError
from ftlab.measure.stream import Detokenizer
from ftlab.policy.from_run import load_policy
from ftlab.policy.given import Given
from ftlab.rundir.directory import RunDir
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.schema import ChatTask
from ftlab.use.chat.command import chat
from ftlab.use.chat.screen import Wrapped
from ftlab.use.chat.thinking import ThinkingSplitter
from ftlab.use.evaluate.command import evaluate
from ftlab.use.models.loading import Models
from tests.runs import BARE, FAST, interrupted_run, make_run, train_run

GIVEN = (
    "model=tiny_instruct", "data.max_samples=200", "train.max_steps=4", "train.learning_rate=1e-3", "tracker=none",
    "eval.golden_rows=0", "eval.samples=0", "eval.steps=4", "train.save_steps=2", "data.split.validation=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two runs that were trained on one base."""
    folder = tmp_path_factory.mktemp("chat")
    train_run(folder / "a", *GIVEN)
    train_run(folder / "b", *GIVEN, "model.adapter=null", "lora.r=4", "train.learning_rate=3e-2", "train.max_steps=8")
    return folder


@pytest.fixture
def runs(here, trained) -> Path:
    """``a`` and ``b`` in the current folder."""
    for name in ("a", "b"):
        shutil.copytree(trained / name, here / name, symlinks=True)
    return here


@pytest.fixture
def said(monkeypatch, capsys):
    """``said("What?", "/quit", argv="a b")``: what a chat of these lines, through a pipe, prints; JSON is read."""

    def run(*lines: str, argv: str = "a", code: int = 0):
        text = "".join(f"{line}\n" for line in lines)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        capsys.readouterr()
        ended = 0
        given = command_line.read(["chat", *shlex.split(argv)])
        try:
            chat(read(given.overrides), given.overrides)
        except SystemExit as end:
            ended = end.code
        out, err = capsys.readouterr()
        assert ended == code, err
        return ([json.loads(line) for line in out.splitlines()] if "format=json" in argv else out), err

    return run


def answers(lines: list[dict], name: str = "a") -> list[str]:
    return [line["answer"] for line in lines if line.get("model") == name]


# ------------------------------------------------------------------------------------------------------ what they say


def test_greedy_answers_are_those_of_a_batched_evaluation(runs, said):
    given = command_line.read(["evaluate", "a", "split=golden", "limit=12", "eval.max_new_tokens=12", "out=found"])
    evaluate(read(given.overrides), given.overrides)
    rows = [json.loads(line) for line in EvaluationDir(Path("found")).predictions.read_text().splitlines()]
    lines = [line for row in rows for line in ("/new", f'"""{row["prompt"][-1]["content"]}"""')]
    told, _ = said(*lines, argv="a eval.max_new_tokens=12 format=json")
    assert answers(told) == [row["prediction"] for row in rows]
    assert len(set(answers(told))) > 3
    assert [line["tokens"] for line in told] == [row["tokens"] for row in rows]
    assert [line["cut"] is None for line in told] == [row["stopped"] for row in rows]


def test_drawn_answers_are_those_of_an_evaluation_with_the_same_seed(runs, said):
    evaluated = command_line.read(["evaluate", "a", "split=golden", "limit=1", "temperature=1", "seed=7", "out=found"])
    evaluate(read(evaluated.overrides), evaluated.overrides)
    (row,) = [json.loads(line) for line in EvaluationDir(Path("found")).predictions.read_text().splitlines()]
    asked = f'"""{row["prompt"][-1]["content"]}"""'
    told, _ = said(
        asked, "/retry", "/set seed 8", "/retry", argv="a temperature=1 seed=7 max_new_tokens=48 format=json"
    )
    assert answers(told)[0] == row["prediction"]
    assert len(set(answers(told))) > 1
    again, _ = said(
        asked, "/retry", "/set seed 8", "/retry", argv="a temperature=1 seed=7 max_new_tokens=48 format=json"
    )
    assert answers(again) == answers(told)


def test_runs_and_their_base_answer_over_one_base_in_memory(runs, said):
    told, _ = said(
        "Give the capital city of Norway.", "And of Peru?", argv="a b compare=base format=json max_new_tokens=8"
    )
    assert [line["model"] for line in told] == ["base of a", "base of b", "a", "b"] * 2
    models = Models(["a", "b"], Given({}, {}), None, None)
    first, second = models.load()
    tensors = [
        {name: one.data_ptr() for name, one in speaker.model.model.named_parameters() if "lora_" not in name}
        for speaker in (first, second)
    ]
    assert tensors[0] == tensors[1] and len(tensors[0]) > 10


def test_the_base_is_what_a_run_began_with(runs, said):
    asked = "Give the capital city of Norway."
    told, _ = said(
        asked, "/compare", "/new", asked, "/compare off", "/new", asked, argv="b format=json max_new_tokens=8"
    )
    assert [line["model"] for line in told] == ["b", "base", "b", "b"]
    assert told[0]["answer"] == told[2]["answer"] == told[3]["answer"] != told[1]["answer"]
    bare = train_run(runs / "bare", *GIVEN, "model.adapter=null", "train.max_steps=1", "train.learning_rate=1e-30")
    untrained, _ = said(asked, argv=f"{bare.path} format=json max_new_tokens=8")
    assert untrained[0]["answer"] == told[1]["answer"]


def test_each_model_goes_on_with_its_own_answers(runs, said):
    lines = ("Give the capital city of Norway.", "Give the capital city of Peru.")
    both, _ = said(*lines, "/history", argv="a b format=json max_new_tokens=8")
    for name in ("a", "b"):
        alone, _ = said(*lines, argv=f"{name} format=json max_new_tokens=8")
        assert answers(both, name) == answers(alone, name)
        history = both[-1][name]
        assert [message["content"] for message in history] == [
            lines[0], answers(alone, name)[0], lines[1], answers(alone, name)[1]
        ]  # fmt: skip


def test_text_goes_out_as_it_is_written(runs, said):
    out, err = said("Give the capital city of Norway.", argv="a max_new_tokens=8")
    policy = load_policy(Path("a"))
    assert out.count("\n") >= 1 and "tokens/s" in err and "first after" in err
    told, _ = said("Give the capital city of Norway.", argv="a max_new_tokens=8 format=json")
    assert out == f"{told[0]['answer']}\n"
    count = len(policy.tokenizer(told[0]["answer"], add_special_tokens=False)["input_ids"])
    assert told[0]["tokens"] == count and told[0]["prompt_tokens"] > 10
    assert 0 < told[0]["seconds_to_first_token"] <= told[0]["seconds"]


def test_ctrl_c_that_a_library_catches_stops_the_answer_all_the_same(runs, said, monkeypatch):
    add, seen = Detokenizer.add, []

    def catches(self, token):
        seen.append(token)
        if len(seen) == 5:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        return add(self, token)

    monkeypatch.setattr(Detokenizer, "add", catches)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        said("Tell me a story.", argv="a temperature=30 max_new_tokens=200")
    assert 5 <= len(seen) < 20
    assert signal.getsignal(signal.SIGINT) is handler


def test_what_was_trained_on_text_goes_on_with_text(here, said):
    run = train_run(here / "t", "stage=pt", "data=code", "data.max_samples=8", "train.max_steps=1", *BARE)
    told, err = said("def add(a, b):", argv=f"{run.path} max_new_tokens=6 format=json")
    assert "it goes on with the text that is typed" in err
    policy = load_policy(run.path)
    ids = policy.tokenizer("def add(a, b):", return_tensors="pt")["input_ids"]
    found = policy.model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, eos_token_id=policy.stop)
    assert told[0]["answer"] == policy.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


# ----------------------------------------------------------------------------------------------------------- commands


def test_undo_takes_back_and_retry_asks_again(runs, said):
    told, err = said("Who?", "What?", "/undo", "/retry", "/history", argv="a format=json max_new_tokens=4")
    assert [line["prompt"] for line in told[:-1]] == ["Who?", "What?", "Who?"]
    assert [message["content"] for message in told[-1]["a"]] == ["Who?", told[0]["answer"]]
    assert "Taken back: What?" in err and "/set temperature 0.7 draws others" in err


def test_system_set_and_status(runs, said):
    told, _ = said(
        "/system You are a parrot.", "/set max_new_tokens 3", "/set temperature=0.5", "Who?", "/status", "/system off",
        "/status", argv="a b format=json",
    )  # fmt: skip
    asked, _, status, last = told
    assert asked["tokens"] <= 3 and status["settings"]["temperature"] == 0.5 and status["system"] == "You are a parrot."
    assert [one["name"] for one in status["models"]] == ["a", "b"] and last["system"] is None
    assert status["models"][0]["weights"] == "a, final weights" and status["models"][0]["base"] == "tiny_instruct"
    plain, _ = said("/set max_new_tokens 3", "Who?", argv="a format=json")
    assert asked["prompt_tokens"] > plain[0]["prompt_tokens"]


def test_checkpoints_are_listed_and_taken(runs, said):
    out, err = said("/checkpoint", "/checkpoint 2", "Who?", "/checkpoint 3", "/checkpoint final", argv="a", code=1)
    assert "a: final (answers now), 4, 2" in out and "a: checkpoint of step 2" in err
    assert "run.checkpoint=3: " in err and "It has: 4, 2" in err and "a: final weights" in err
    one, _ = said("/checkpoint 6", "Who?", argv="b format=json max_new_tokens=6")
    other, _ = said("Who?", argv="b run.checkpoint=6 format=json max_new_tokens=6")
    assert answers(one, "b") == answers(other, "b")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/stauts", "/stauts: no such command. Did you mean /status?"),
        ("/xyzzy", "/xyzzy: no such command. /help lists them."),
        ("/set temprature 1", "no such setting. Known: max_new_tokens, temperature, "),
        ("/set temperature warm", "temperature=warm: must be a valid number"),
        ("/set top_p 2", "top_p=2: must be less than or equal to 1"),
        ("/set max_new_tokens", "/set max_new_tokens: no value."),
        ("/retry", "There is no question yet."),
        ("/undo", "There is nothing to take back."),
        ("/save", "/save FILE: name one file"),
        ("/save x.jsonl", "There is no answer to save yet."),
        ("/load", "/load FILE goes on with the last conversation"),
        ("/load nowhere.jsonl", "nowhere.jsonl does not exist."),
        ("/think on", "has no switch for it (enable_thinking)"),
        ("/compare maybe", "/compare maybe: on or off"),
        ("/checkpoint last", "/checkpoint last: the step of a checkpoint, or final"),
        ('/load "x', "a quotation mark has no other"),
        ('"""never closed', '""" was not closed, and nothing was asked.'),
        ("word " * 3000, "and the model's context 2,048, with no room for an answer"),
        ("\udcff", "What was typed is not UTF-8"),
    ],
)
def test_what_cannot_be_done_is_told_and_the_chat_goes_on(session, line, told, capsys, monkeypatch):
    from ftlab.use.chat.command import _talk
    from ftlab.use.chat.reader import PipeReader

    text = f"{line}\n/quit\n".encode("utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    session.screen.failed = session.is_over = False
    session.begin_anew()
    _talk(session, PipeReader())
    out, err = capsys.readouterr()
    assert told in " ".join(err.split()) and session.screen.failed and out == ""
    assert session.conversation.turns == []


@pytest.fixture(scope="module")
def session(trained):
    """A chat with ``a``, for what loads nothing."""
    from ftlab.use.chat.command import _session

    given = command_line.read(["chat", str(trained / "a"), "max_new_tokens=4"])
    run = read(given.overrides)
    assert isinstance(run.task, ChatTask)
    return _session(run, run.task, Given({}, {}))


def test_help_lists_every_command(session, capsys):
    from ftlab.use.chat.commands import COMMANDS, completions, execute

    execute(session, "/?")
    out = capsys.readouterr().out
    assert [name for one in COMMANDS for name in one.names if f"/{name}" not in out] == []
    assert completions(session, "/s", "/s") == ["/save", "/set", "/status", "/system"]
    assert completions(session, "/set te", "te") == ["temperature"]


# ---------------------------------------------------------------------------------------------------- files of theirs


def test_what_is_saved_trains_and_is_loaded_again(runs, said):
    lines = ("/system Be brief.", "Give the capital city of Norway.", "And of Peru?")
    _, err = said(*lines, "/save mine/chat.jsonl", argv="a b compare=base max_new_tokens=8")
    assert "mine/chat.jsonl has 2 conversations now, without what the base has said" in err
    rows = [json.loads(line) for line in Path("mine/chat.jsonl").read_text().splitlines()]
    assert [[message["role"] for message in row["messages"]] for row in rows] == [
        ["system", "user", "assistant", "user", "assistant"]
    ] * 2
    assert rows[0]["messages"][1]["content"] == lines[1] and rows[0] != rows[1]
    again = train_run(
        runs / "again", "model=tiny_instruct", "data.path=mine/chat.jsonl", "data.format=messages", "train.max_steps=1",
        *BARE,
    )  # fmt: skip
    train = json.loads(again.ledger("sft").read_text())["splits"]["train"]
    assert (train["rows"]["in"], train["rows"]["kept"]) == (2, 2) and train["tokens"]["trained"] > 4
    told, _ = said("/load mine/chat.jsonl 1", "/history", "Who?", argv="a format=json max_new_tokens=8")
    assert told[0]["a"] == rows[0]["messages"] and told[1]["turn"] == 2


def test_a_conversation_that_goes_on_takes_its_own_place_in_the_file(runs, said):
    Path("chat.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    )
    said(
        "Who?",
        "/save chat.jsonl",
        "Why?",
        "/save chat.jsonl",
        "/new",
        "Where?",
        "/save chat.jsonl",
        argv="a max_new_tokens=4",
    )
    rows = [json.loads(line)["messages"] for line in Path("chat.jsonl").read_text().splitlines()]
    assert [[message["content"] for message in row if message["role"] == "user"] for row in rows] == [
        ["q"], ["Who?", "Why?"], ["Where?"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"messages": [{"role": "user", "content"', "f.jsonl: no line is a JSON object (line 1: not JSON"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}', "f.jsonl:1: message 1 has the unknown role 'wizard'"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "f.jsonl:1: turn 1 should be a user or tool turn"),
        ('{"question": "x"}', "f.jsonl:1: has no column 'messages'; it has 'question'"),
        ("[1, 2]", "f.jsonl: no line is a JSON object (line 1: is not an object"),
        ("", "f.jsonl"),
    ],
)
def test_a_file_that_is_no_conversation_is_told(session, here, content, told):
    from ftlab.use.chat.commands import execute

    Path("f.jsonl").write_text(content)
    before = session.conversation
    with pytest.raises(DataError) as error:
        execute(session, "/load f.jsonl")
    assert told in str(error.value) and session.conversation is before
    if content:
        session.ask("Who?")
        with pytest.raises(DataError, match=r"f\.jsonl:1: .*\. It is no file of conversations"):
            execute(session, "/save f.jsonl")
        assert Path("f.jsonl").read_text() == content
        session.begin_anew()


def test_a_question_at_the_end_of_a_file_waits_for_retry(runs, said):
    Path("q.jsonl").write_text('{"conversations": [{"from": "human", "value": "Who?"}]}\n')
    told, err = said("/load q.jsonl", "/retry", argv="a format=json max_new_tokens=4")
    alone, _ = said("Who?", argv="a format=json max_new_tokens=4")
    assert "it ends with a question: /retry answers it" in err and told[0]["answer"] == alone[0]["answer"]


# -------------------------------------------------------------------------------------------------------- which models


def test_without_a_run_it_is_the_latest(here, said):
    with pytest.raises(RunDirError, match="No run is named, and there is none in outputs/"):
        said("Who?", argv="")
    given = (*GIVEN[:2], *FAST, "train.max_steps=1")
    train_run(Path("outputs/one"), *given)
    train_run(Path("outputs/two"), *given)
    RunDir.open(Path("outputs/one")).link_latest()
    _, err = said("Who?", argv="max_new_tokens=2")
    assert "outputs/one is the latest run." in err
    Path("outputs/latest").unlink()
    _, err = said("Who?", argv="max_new_tokens=2")
    assert "outputs/two is the latest run." in err


def test_a_run_that_is_not_finished_answers_by_its_best_checkpoint(here, said):
    interrupted_run(here / "r", 3, *GIVEN)
    _, err = said("Who?", argv="r max_new_tokens=2")
    assert "r: phase sft is not finished: this is its checkpoint of step" in err
    shutil.rmtree("r/phases")
    with pytest.raises(RunDirError, match="r has no weights yet"):
        said("Who?", argv="r")


def test_runs_of_several_bases_are_all_loaded_or_refused(runs, said):
    train_run(runs / "whole", *GIVEN, "method=full", "model.adapter=null")
    told, err = said("Who?", argv="a whole format=json max_new_tokens=4")
    assert [line["model"] for line in told] == ["a", "whole"]
    assert "The runs have 2 base models, all of them in memory." in err
    with pytest.raises(
        NotReadyError, match=r"These runs have 2 base models, which together need .*\n  - a: .*\n  - whole:"
    ):
        said("Who?", argv="a whole hardware.memory_gb=0.001")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("nowhere", "nowhere is no run directory"),
        ("a lora.r=4", "lora.r: is the run's own, and ftlab chat takes what was trained"),
        ("a phase=dpo", r"no such phase. .*a has: sft"),
        ("a load=nowhere.jsonl", "nowhere.jsonl does not exist"),
        ("a run.checkpoint=7", r"run\.checkpoint=7: .*has no whole checkpoint of that step"),
    ],
)
def test_what_cannot_be_talked_with_is_told(runs, said, argv, told):
    with pytest.raises((ConfigError, RunDirError, DataError), match=told):
        said("Who?", argv=argv)


def test_a_reward_model_answers_nothing(here, said):
    train_run(here / "rm", "stage=rm", "model=tiny_instruct", "data.max_samples=16", "train.max_steps=1", *BARE)
    with pytest.raises(DataError, match="rm trained a reward model, which scores answers and writes none"):
        said("Who?", argv="rm")


# --------------------------------------------------------------------------------------------------------- the screen


def test_text_of_tokens_comes_as_the_whole_of_it_is_read(trained):
    tokenizer = load_policy(trained / "a").tokenizer
    text = "Grüße, 東京! 👩‍🚀 naïve\n\n  indented\tand so on <|im_end|> é"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    reader = Detokenizer(tokenizer)
    pieces = [reader.add(token) for token in ids]
    assert "".join([*pieces, reader.end()]) == tokenizer.decode(ids, skip_special_tokens=True)
    assert not any("\ufffd" in piece for piece in pieces) and sum(map(bool, pieces)) > 10


def test_words_are_not_broken_at_the_edge(capsys):
    out = Wrapped(20)
    for piece in ("The quick bro", "wn fox jum", "ps over the la", "zy dog.\n", "x" * 25, " end", "東京" * 12):
        out.write(piece, False)
    out.flush()
    lines = capsys.readouterr().out.split("\n")
    assert lines[:3] == ["The quick brown fox ", "jumps over the lazy ", "dog."]
    assert max(map(len, lines)) <= 25 and "".join(lines).count("東") == 12


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thinking_is_told_from_what_is_said(size):
    text = "<think>\nIs 1 < 2? Yes </thin.\n</think>\n\nYes <b> it is."
    splitter, found = ThinkingSplitter(False), []
    for start in range(0, len(text), size):
        found += splitter.feed(text[start : start + size])
    found += splitter.end()
    assert "".join(piece for piece, thinks in found if thinks) == "\nIs 1 < 2? Yes </thin.\n"
    assert "".join(piece for piece, thinks in found if not thinks) == "\n\nYes <b> it is."


def test_every_key_of_the_chat_is_in_the_config():
    run = make_run("task=chat")
    assert isinstance(run.task, ChatTask) and run.task.history is not None and run.task.temperature == 0
