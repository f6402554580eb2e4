"""Where an answer ends: at special tokens alone, wherever a template's marks stand."""

from __future__ import annotations

import shutil

import pytest

from ftlab.config.paths import shipped
from ftlab.data.formats import Conversation
from ftlab.policy.tokens import load_tokens
from tests.data.helpers import ask

TEMPLATE = (
    "{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n"
    "{{% if m.role == 'assistant' %}}{}{{% else %}}{{{{ m.content }}}}<|im_end|>\n{{% endif %}}{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


@pytest.mark.parametrize(
    ("answer", "trained", "stops"),
    [
        ("{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n", "Oslo", ["eos"]),
        ("{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n", "Oslo<|im_end|>", ["<|im_end|>", "eos"]),
        ("{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}", "Oslo<|im_end|>",
         ["<|im_end|>", "eos"]),
    ],
    ids=["before the end", "at the end", "after the end"],
)  # fmt: skip
def test_marks_before_at_and_after_the_turns_end(make_run, tmp_path, answer, trained, stops):
    folder = tmp_path / "model"
    shutil.copytree(shipped("models/tiny"), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE.format(answer))
    tokens = load_tokens(make_run(f"model.path={folder}"))
    wanted = [tokens.tokenizer.eos_token if stop == "eos" else stop for stop in stops]
    assert tokens.tokenizer.convert_ids_to_tokens(tokens.stop) == list(dict.fromkeys(wanted))
    rendered = tokens.template.render(Conversation(ask("1", "Oslo")))
    assert [rendered.text[start:end] for start, end in rendered.spans] == [trained]
    assert (tokens.remark is not None) == (trained == "Oslo")
    if tokens.remark:
        assert "trains no token that ends an answer" in tokens.remark and "{% endgeneration %}" in tokens.remark
