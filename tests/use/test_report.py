"""``ftlab report``: what the page says, that nothing of a run can break it, and what is told where it fails."""

from __future__ import annotations

import html
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from plotly.offline import get_plotlyjs

from ftlab.config import command_line
from ftlab.errors import ConfigError, NotReadyError, RunDirError
from ftlab.rundir.evaluations import EvaluationDir
from ftlab.rundir.sweep import SweepDir
from ftlab.schema import ReportTask
from ftlab.use import report as package
from ftlab.use.report.command import report
from ftlab.use.report.figures import COLOURS, style_of
from tests.sweeps import answer, begin, log, record, sweep_of, write_run

NASTY = '</script><img src=x onerror="alert(1)"> & <b>%{x}</b> <!--'


def losses(number: int) -> list[float]:
    return [5.0, 4.0 - number / 10, 3.0 - number / 7]


@pytest.fixture
def swept(here) -> SweepDir:
    """Four jobs: two finished, one failed, one that has not begun."""
    sweep = sweep_of(here / "s", [(f"lora.r={r}", f"note={NASTY}" if r == 4 else "note=x") for r in (4, 8, 16, 32)])
    for number, loss in enumerate((2.0, 1.0)):
        folder = write_run(begin(sweep, number), "finished", validation_loss=loss, golden_exact_match=0.5)
        record(folder, rerun=f"ftlab lora.r={4 * 2**number}", folder="/home/me")
        log(folder, {"step": 0, "eval_loss": 6.0, "tokens": 0, "seconds": 0.5})
        for step, value in enumerate(losses(number), 1):
            line = {"step": step, "loss": value, "tokens": step * 10, "total_tokens": step * 10, "seconds": step + 0.5}
            log(folder, {**line, "global_step": step, "tokens_per_second": 10.0 * step, "gpu_memory_gb": 2.0 + step})
        log(folder, {"step": 3, "global_step": 3, "eval_loss": loss, "tokens": 30, "total_tokens": 30, "seconds": 4.0})
        answer(folder, "before", (f"Say {NASTY}", "yes", "no"))
        answer(folder, "after", (f"Say {NASTY}", "yes", ["yes ", NASTY][number]))
    begin(sweep, 2, "data.path: nope.json does not exist\nmore")
    return sweep


def make(*runs: Path | str, **keys: object) -> None:
    values = {"name": "report", "words": (), "out": None, "objective": None, "smoothing": 0.6, **keys}
    task = ReportTask.model_validate({**values, "runs": tuple(map(str, runs))}, strict=False)
    report(SimpleNamespace(task=task), ())


class Page(HTMLParser):
    """What a browser would make of the page: text, tags with their attributes, and the cells of tables."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")  # which takes seconds to parse
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self._table, self._is_code = "", False
        self.feed(self.source)
        (figures,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', self.source, re.DOTALL)
        self.figures = json.loads(figures)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._is_code = tag in ("script", "style")
        if tag == "table":
            self._table = dict(attrs)["id"]
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
        elif tag in ("section", "h2"):
            self._table = ""

    def handle_data(self, data):
        if self._is_code:
            return
        self.texts.append(data)
        if self._table and self.rows[self._table] and self.rows[self._table][-1]:
            self.rows[self._table][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def trace(self, kind: str, key: str, run: int) -> dict:
        (found,) = [one for one in self.figures[kind][key]["data"] if one["meta"]["run"] == run]
        return found


@pytest.fixture
def page(swept) -> Page:
    make("s")
    return Page(swept.path / "report.html")


# ------------------------------------------------------------------------------------------------ what it says


def test_curves_have_the_values_of_metrics_jsonl(page, swept):
    for number in (0, 1):
        lines = [json.loads(line) for line in (swept.path / str(number) / "metrics.jsonl").read_text().splitlines()]
        logged = [line for line in lines if "loss" in line]
        trace = page.trace("train", "loss", number)
        assert trace["x"] == [1, 2, 3] and trace["y"] == [line["loss"] for line in logged] == losses(number)
        assert trace["customdata"] == [[line["step"], line["tokens"], line["seconds"]] for line in logged]
        measured = page.trace("measured", "validation loss", number)
        assert (measured["x"], measured["y"]) == ([0, 3], [6.0, [2.0, 1.0][number]])
    assert next(iter(page.figures["train"])) == "loss" and next(iter(page.figures["measured"])) == "validation loss"
    assert {run["meta"]["run"] for run in page.figures["train"]["loss"]["data"]} == {0, 1}


def test_the_leaderboard_is_that_of_the_sweep(page):
    head, *rows = page.rows["leaderboard"]
    assert head[:7] == ["run", "rank", "lora.r", "note", "state", "step", "validation loss"]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [[row[0], *row[1:3], *row[4:8]] for row in cells] == [
        ["job 2", "1", "8", "finished", "20/20", "1.0000", f"{losses(1)[-1]:.4f}"],
        ["job 1", "2", "4", "finished", "20/20", "2.0000", "3.0000"],
        ["job 3", "–", "16", "failed", "–", "–", "–"],
        ["job 4", "–", "32", "waiting", "–", "–", "–"],
    ]
    assert "job 3 failed: data.path: nope.json does not exist" in page.text and "more" not in page.text.split()


def test_the_best_with_its_command_and_what_the_runs_cost(page):
    assert "The command that runs it again, from /home/me: ftlab lora.r=8 copy" in page.text
    head, *rows = page.rows["cost-table"]
    assert head == ["run", "time", "steps", "tokens", "tokens/s in training", "tokens/s of all the time",
                    "peak GPU memory, GB"]  # fmt: skip
    assert [cell.strip() for cell in rows[0]] == ["job 2", "1:00", "20", "200", "20", "3", "5.0000"]
    assert "In all 2:00 of work, and 400 tokens trained on." in page.text


def test_answers_stand_side_by_side(page):
    start = page.text.index("Answers side by side")
    found = page.text[start : page.text.index("Costs")]
    assert f"prompt Say {' '.join(NASTY.split())} expected yes base no" in found
    assert "1 of 2 right" in found and "job 1 ✓ yes" in found and "job 2 </script>" in found


def test_settings_over_the_objective(page):
    assert page.trace("scatter", "lora.r", 1)["x"] == [8.0] and page.trace("scatter", "lora.r", 1)["y"] == [1.0]
    assert "2 of 4 runs have no value, and are not drawn here." in page.text
    worst, best = page.figures["parallel"]["data"]
    assert (worst["meta"]["run"], best["meta"]["run"]) == (0, 1), "the best is drawn over the others"
    assert best["y"][0] == 1.0 and best["y"][-1] == 0.0 and worst["y"][0] == 0.0 and worst["y"][-1] == 1.0


def test_another_objective(swept):
    make("s", objective="golden_exact_match", out="a.html")
    assert "ranked by golden exact match, higher is better" in Page(Path("a.html")).text
    with pytest.raises(ConfigError, match=r"task.objective=acuracy: is nothing that was measured. There are: valid"):
        make("s", objective="acuracy")


# ------------------------------------------------------------------------------------------------ nothing breaks it


def test_all_that_comes_from_runs_is_escaped(page):
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 3 and page.source.count("</script") == 3, "none of them ends early"
    assert not [tag for tag, attributes in page.tags if tag == "img" or "onerror" in attributes]
    assert NASTY not in page.source and html.escape(NASTY) in page.source
    label = page.trace("scatter", "note", 0)["hovertemplate"]
    assert "<img" not in label and "%{x}" not in label and "&lt;img" in label


def test_the_page_needs_nothing_beside_it(page):
    loaded = [attributes for _, attributes in page.tags if {"src", "href", "srcset", "action"} & attributes.keys()]
    assert loaded == []
    (policy,) = [one["content"] for tag, one in page.tags if tag == "meta" and "http-equiv" in one]
    assert policy.startswith("default-src 'none'; ") and "http" not in policy and "connect-src" not in policy
    styles = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL)[1]
    assert "url(" not in styles and "@import" not in styles


def test_secrets_stay_masked(swept, monkeypatch):
    token = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zB9dF1hJ3k"
    monkeypatch.setenv("MY_API_KEY", "a-value-that-is-secret")
    record(swept.path / "1", rerun=f"ftlab data.path=https://me:{token}@host/x note=a-value-that-is-secret")
    answer(swept.path / "0", "after", (f"What is {token}?", "a-value-that-is-secret", token))
    begin(swept, 2, f"cannot read {token}")
    make("s")
    text = (swept.path / "report.html").read_text()
    assert token not in text and "a-value-that-is-secret" not in text and "&lt;redacted&gt;" in text


def test_a_damaged_line_is_named_and_what_was_before_it_is_drawn(swept, capsys):
    path = swept.path / "1" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], '{"step": nonsense}\n', *lines[2:]]))
    make("s")
    said = 's/1/metrics.jsonl:3 is no JSON object: {"step": nonsense}.'
    page = Page(swept.path / "report.html")
    assert said in page.text and said in capsys.readouterr().out
    assert page.trace("train", "loss", 1)["y"] == losses(1)[:1]
    assert page.trace("train", "loss", 0)["y"] == losses(0)


def test_damaged_answers_and_a_run_that_cannot_be_read(swept, capsys):
    (swept.path / "0" / "samples" / "sft-after.json").write_text('{"values": {}, "samples": [{"prompt": 3}]}')
    (swept.path / "1" / "manifest.json").write_text("{")
    make("s")
    page = Page(swept.path / "report.html")
    assert "s/0/samples/sft-after.json is not what a run writes: samples.0.prompt" in page.text
    assert "job 2 unreadable: s/1/manifest.json is no JSON" in page.text
    assert [row[4].strip() for row in page.rows["leaderboard"][1:]] == ["finished", "unreadable", "failed", "waiting"]


def test_a_run_that_was_never_evaluated_and_one_that_has_only_begun(here):
    sweep = sweep_of(here / "s", [("lora.r=4",), ("lora.r=8",)])
    log(write_run(begin(sweep, 0), "interrupted"), {"step": 1, "loss": float("nan")}, {"step": 2, "loss": 3.0})
    write_run(begin(sweep, 1), "new")
    make("s")
    page = Page(sweep.path / "report.html")
    assert page.trace("train", "loss", 0)["y"] == [None, 3.0]
    assert page.figures["measured"] == {} and page.figures["parallel"] is None and page.figures["scatter"] == {}
    for said in ("No run has logged any.", "No run has a value to compare.", "No run has answered prompts."):
        assert said in page.text
    assert "ranked by" not in page.text and "Best config" not in page.text


def test_of_long_curves_some_values_are_drawn_the_last_one_among_them(here):
    folder = write_run(here / "one", "finished", validation_loss=1.0)
    log(folder, *({"step": step, "global_step": step, "loss": float(step)} for step in range(1, 2502)))
    make("one", out="x.html")
    page = Page(Path("x.html"))
    assert page.trace("train", "loss", 0)["x"] == [*range(1, 2501, 3), 2501]
    assert "Of long curves one value of 3 is drawn." in page.text


def test_runs_that_are_no_sweep(here):
    for name, overrides in (("a", ["lora.r=8", "run.name=a"]), ("b", ["run.name=b", "seed=1"])):
        folder = write_run(here / name, "finished", validation_loss=1.0 + len(overrides[0]))
        plan = json.loads((folder / "run.yaml").read_text())
        (folder / "run.yaml").write_text(json.dumps({**plan, "overrides": overrides}))
    make("a", "b")
    page = Page(here / "report.html")
    head, *rows = page.rows["leaderboard"]
    assert head[:4] == ["run", "rank", "lora.r", "seed"] and "2 runs" in page.text
    # Who was told no rank has that of the config.
    assert [[cell.strip() for cell in row[:4]] for row in rows] == [["a", "1", "8", "–"], ["b", "2", "16", "1"]]


def test_evaluations_stand_with_their_intervals_and_differences(here):
    for name, value in (("a", 0.75), ("b", 0.5)):
        folder = EvaluationDir(write_run(here / name, "finished", validation_loss=1.0) / "evaluations" / "golden")
        difference = {"difference": value, "low": 0.25, "high": 1.0, "verdict": "better"}
        with folder:
            measured = {"bleu": {"value": 9.5}, "exact_match": {"value": value, "low": 0.25, "high": 1.0}}
            differs = {NASTY: {"exact_match": difference}}
            folder.write({"status": "finished", "metrics": measured, "compare": differs})
    (here / "b/evaluations/torn").mkdir()
    (here / "b/evaluations/torn/evaluation.json").write_text('{"status": "running"}')
    make("a", "b")
    page = Page(here / "report.html")
    head, *rows = [[cell.strip() for cell in row] for row in page.rows["evaluation-table"]]
    assert head == ["run", "evaluation", "beside", "bleu", "exact_match"]
    assert rows[0] == ["a", "golden", "–", "9.5000", "0.7500 (0.2500 to 1.0000)"]
    assert rows[1] == ["a", "golden", NASTY, "–", "+0.7500 (0.2500 to 1.0000) * better"]
    assert len(rows) == 4
    assert "b/evaluations/torn is not finished: give its command again" in page.text


def test_the_phases_of_a_curriculum_are_one_curve_and_answer_apart(here):
    folder = write_run(here / "one", "finished", validation_loss=1.0)
    plan = json.loads((folder / "run.yaml").read_text())
    phases = [plan["phases"][0], {**plan["phases"][0], "name": "dpo"}]
    (folder / "run.yaml").write_text(json.dumps({**plan, "phases": phases}))
    for phase, before in (("sft", 0), ("dpo", 2)):
        lines = [{"phase": phase, "step": step, "global_step": before + step, "loss": 1.0 + step} for step in (1, 2)]
        log(folder, *lines)
    answer(folder, "after", ("Which?", "a", "a"))
    (folder / "samples" / "sft-after.json").rename(folder / "samples" / "dpo-after.json")
    answer(folder, "after", ("Which?", "a", "b"))
    make("one")
    page = Page(here / "report.html")
    assert page.trace("train", "loss", 0)["x"] == [1, 2, 3, 4]
    assert "sft Which? 0 of 1 right" in page.text and "dpo Which? 1 of 1 right" in page.text


# ------------------------------------------------------------------------------------------------ where it goes


def test_it_says_where_it_is_and_is_written_whole(swept, capsys, on_disk):
    make("s")
    path = swept.path / "report.html"
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 runs in s/report.html (")
    assert on_disk(path)
    path.write_text("old")
    make("s")
    assert path.read_text().startswith("<!doctype html>") and not [*swept.path.glob(".report*")]


@pytest.mark.parametrize(
    ("runs", "keys", "error", "said"),
    [
        ((), {}, ConfigError, r"task.runs: names nothing: ftlab report SWEEP"),
        (("nowhere",), {}, ConfigError, r"task.runs=nowhere: is no folder of a sweep or a run"),
        (("empty",), {}, RunDirError, r"empty is no run directory"),
        (("s",), {"out": "empty"}, NotReadyError, r"task.out=empty is there and is no file"),
        (("s",), {"out": "s/sweep.json/x.html"}, NotReadyError, r"task.out=.* cannot be written: "),
    ],
)
def test_what_cannot_be_reported(swept, here, runs, keys, error, said):
    (here / "empty").mkdir()
    with pytest.raises(error, match=said):
        make(*runs, **keys)


def test_without_plotly_nothing_is_begun(swept, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(NotReadyError, match=r"^ftlab report needs the package plotly: pip install 'ftlab\[sweeps\]'$"):
        make("s", "nowhere")
    assert not [*swept.path.glob("*.html")]


def test_the_words_of_the_command():
    given = command_line.read(["report", "out/a", "my run", "out=x.html", "smoothing=0"])
    assert given.overrides == ("task=report", "task.out=x.html", "task.smoothing=0", "task.runs=[out/a,'my run']")


# ------------------------------------------------------------------------------------------------ colours


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, str]]:
    css = (Path(package.__file__).parent / "report.css").read_text()
    return [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root[^{]*{([^}]*)}", css)]


def test_curves_and_text_can_be_seen_on_either_ground():
    light, dark, system = themes()
    assert dark == system and light["ground"] != dark["ground"]
    for theme in (light, dark):
        assert min(contrast(colour, theme["ground"]) for colour in COLOURS) >= 3
        text = ("ink", "quiet", "accent", "good", "bad", "warn")
        assert min(contrast(theme[name], theme[ground]) for name in text for ground in ("ground", "raised")) >= 4.5
        assert contrast(theme["ink"], theme["good-ground"]) >= 4.5


def test_no_two_of_28_runs_look_the_same():
    assert len({style_of(number)[:2] for number in range(28)}) == 28
    assert style_of(28) == style_of(0)
