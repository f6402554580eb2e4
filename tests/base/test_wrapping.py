"""Lines that are wider than the terminal are broken between words, and a command so that a shell reads it as one."""

from __future__ import annotations

import io
import subprocess
from textwrap import dedent

import pytest
from rich.cells import cell_len
from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.wrapping import pieces

LONG = (
    "  ftlab stage=dpo data=preferences model.adapter='outputs/my first run/final' data.path=/data/a/b/c/d/e/f.jsonl",
    "Interrupted. Continue with: ftlab resume /home/somebody/experiments/outputs/tiny-sft-lora-20260101-120000",
    "rows.csv: the file is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 'the first rows.csv' > 'the rows.csv'",
)


def broken(line: str, width: int) -> str:
    return "\n".join(piece.indent + line[piece.start : piece.stop] + piece.end for piece in pieces(line, width))


@pytest.mark.parametrize("width", [30, 60, 80])
@pytest.mark.parametrize("line", LONG)
def test_a_broken_command_is_the_same_command_to_a_shell(line, width):
    copied = broken(line, width)
    assert "\n" in copied
    first = next(name for name in ("ftlab", "iconv") if f"{name} " in line)
    show = f'{first}() {{ printf "<%s>" "$@"; }}; '
    whole, parts = (
        subprocess.run(
            ["bash", "-c", show + text[text.index(f"{first} ") :]], capture_output=True, text=True, check=True
        )
        for text in (line.replace(">", "'>'"), copied.replace(">", "'>'"))
    )
    assert parts.stdout == whole.stdout != ""


def test_a_command_for_a_tracker_is_one_too():
    line = "wandb: no WANDB_API_KEY and no wandb login: offline; to send it: wandb sync /data/"
    path = 75 * "x"
    assert broken(line + path, 80) == dedent(f"""\
        wandb: no WANDB_API_KEY and no wandb login: offline; to send it:
          wandb sync \\
          /data/{path}""")


def test_a_number_stays_with_the_word_before_it():
    line = "before training: validation loss 8.3995, perplexity 4,445.0, golden exact match 0.000"
    assert broken(line, 80) == dedent("""\
        before training: validation loss 8.3995, perplexity 4,445.0, golden exact
          match 0.000""")
    path = "/data/" + 70 * "x"
    assert broken(f"{path} 12345", 80) == f"{path}\n  12345"
    assert broken("ids: 22 333 44 555", 14) == "ids: 22 333 44\n  555"


@pytest.mark.parametrize("line", LONG)
def test_no_line_is_wider_than_its_longest_word(line):
    assert max(map(cell_len, broken(line, 80).split("\n"))) <= 80


def test_a_command_that_fits_a_line_of_its_own_gets_one():
    assert broken(LONG[1], 90) == dedent("""\
        Interrupted. Continue with:
          ftlab resume /home/somebody/experiments/outputs/tiny-sft-lora-20260101-120000""")


def test_prose_is_broken_between_words_without_a_mark():
    line = "- data.path: the file rows.jsonl does not exist; ftlab looks for it below the folder it is started in"
    assert broken(line, 60) == dedent("""\
        - data.path: the file rows.jsonl does not exist; ftlab looks
            for it below the folder it is started in""")


def test_colours_stay_where_they_were():
    text = Text("step 1: ").append("loss is no number", style="red").append(" at row 17 of the file rows.jsonl")
    with io.StringIO() as out:
        Terminal(file=out, width=30, force_terminal=True, color_system="standard").print(text, soft_wrap=True)
        assert out.getvalue().split("\n")[0].startswith("step 1: \x1b[31mloss is no number\x1b[0m")
