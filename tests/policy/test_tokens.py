"""Where an answer ends: the token that the template writes there is trained, and stops generation; no other does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ftlab.data.formats import Conversation
from ftlab.policy.tokens import load_tokens
from tests.conftest import ROOT
from tests.runs import BARE, make_run, train_run

HEAD = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
TAIL = "{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
TAIL += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
BODIES = {
    "before the end": "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\\n' }}",
    "at the end": "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}",
    "after the end": "{% generation %}{{ m.content + '<|im_end|>\\n' }}{% endgeneration %}",
    "before a line break": "{% generation %}{{ m.content }}{% endgeneration %}{{ '\\n<|im_end|>\\n' }}",
    "no marks": "{{ m.content + '<|im_end|>\\n' }}",
}
ENDLESS = {
    "marks": "{% generation %}{{ m.content }}{% endgeneration %}{{ '\\n' }}",
    "a line break in marks": "{% generation %}{{ m.content + '\\n' }}{% endgeneration %}",
    "no marks": "{{ m.content + '\\n' }}",
}
TURNS = [
    {"role": "user", "content": "What?"}, {"role": "assistant", "content": "This."},
    {"role": "user", "content": "And?"}, {"role": "assistant", "content": "That\n\nand <|im_end|> more"},
]  # fmt: skip


def model_with(template: str, folder: Path) -> Path:
    shutil.copytree(ROOT / "models" / "tiny", folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def tokens_of(template: str, folder: Path):
    return load_tokens(make_run(f"model.path={model_with(template, folder)}", "model.template=null"))


@pytest.mark.parametrize("where", BODIES)
def test_the_token_that_ends_a_turn_is_trained_and_stops_wherever_marks_end(where, tmp_path):
    tokens = tokens_of(HEAD + BODIES[where] + TAIL, tmp_path / "m")
    end = tokens.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokens.stop == [end, tokens.tokenizer.eos_token_id]
    assert tokens.warning is None
    rendered = tokens.template.render(Conversation(TURNS))
    gap = "\n" if where == "before a line break" else ""
    assert [rendered.text[start:stop] for start, stop in rendered.spans] == [
        f"{turn['content']}{gap}<|im_end|>" for turn in TURNS if turn["role"] == "assistant"
    ]


@pytest.mark.parametrize("where", ENDLESS)
def test_no_letter_and_no_line_break_becomes_a_stop_token_and_it_is_told(where, tmp_path):
    tokens = tokens_of(HEAD + ENDLESS[where] + TAIL, tmp_path / "m")
    assert tokens.stop == [tokens.tokenizer.eos_token_id]
    assert "trains no token that ends an answer" in tokens.warning
    assert "around the content and <|endoftext|> in chat_template.jinja" in tokens.warning


def test_it_is_told_before_training_and_saved_with_the_weights(tmp_path, capsys):
    given = (*BARE, "model.template=null", "train.max_steps=1", "data.max_samples=8")
    folder = model_with(HEAD + ENDLESS["marks"] + TAIL, tmp_path / "m")
    run = train_run(tmp_path / "run", f"model.path={folder}", *given)
    told = " ".join(capsys.readouterr().out.split())
    assert told.index("trains no token that ends an answer") < told.index("training 1/1")
    assert json.loads((run.final / "generation_config.json").read_text())["eos_token_id"] == [1]
    after = model_with(HEAD + BODIES["after the end"] + TAIL, tmp_path / "after")
    run = train_run(tmp_path / "run2", f"model.path={after}", *given)
    assert json.loads((run.final / "generation_config.json").read_text())["eos_token_id"] == [3, 1]
    assert "trains no token" not in capsys.readouterr().out
