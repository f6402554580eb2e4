"""The folder of a sweep, damaged at random: its leaderboard and its report, or one message; no traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from ftlab.base.console import Terminal
from ftlab.errors import FtlabError
from ftlab.rundir.leaderboard import as_dict, read_sweep
from ftlab.rundir.leaderboard_table import best_line, problems, render
from ftlab.rundir.sweep import SweepDir
from ftlab.use.report.collect import collect
from ftlab.use.report.page import page
from tests.fuzz.damage import DAMAGES, damaged
from tests.sweeps import answer, begin, log, record, sweep_of, write_run

FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LONG = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    sweep = sweep_of(folder, [(f"lora.r={r}", "seed=1") for r in (4, 8, 16)])
    for number in range(2):
        path = write_run(begin(sweep, number), "finished", max_steps=None, validation_loss=2.0, golden_exact_match=0.5)
        record(path, rerun="ftlab lora.r=4", folder="/home/me")
        for step in range(4):
            line = {"step": step, "global_step": step, "epoch": step / 4, "total_tokens": step * 10, "seconds": step}
            log(path, {**line, "loss": 3.0 - step}, {**line, "eval_loss": 2.5}, {**line, "golden_exact_match": 0.5})
        answer(path, "before", ("Which?", "this", "that"))
        answer(path, "after", ("Which?", None, "this"))
    begin(sweep, 2, "no room")
    return folder


def check(swept: Path, data: st.DataObject, has_page: bool) -> None:
    folder = swept.with_name("damaged")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(swept, folder)
    for _ in range(data.draw(st.sampled_from((1, 1, 2, 3)), "damages")):
        place = data.draw(st.sampled_from(sorted(folder.rglob("*"))), "place")
        note(f"damaged: {place.relative_to(folder)}")
        if place.parent.is_dir():
            damaged(place, data.draw(DAMAGES, "damage"))
    try:
        board = read_sweep(SweepDir(folder))
        json.dumps(as_dict(board), allow_nan=False)
        to = Terminal(width=80, quiet=True)
        to.print(render(board, 80), best_line(board), *problems(board))
        found = collect([str(folder)], None)
        if has_page:
            assert page(found, 0.6).endswith("</html>\n")
    except FtlabError as error:
        note(str(error))
        assert str(folder) in str(error), "a refusal names what is wrong"


@FAST
@given(data=st.data())
def test_a_damaged_sweep_is_told(swept, data):
    check(swept, data, has_page=False)


@pytest.mark.fuzz
@pytest.mark.timeout(7200)
@LONG
@given(data=st.data())
def test_a_damaged_sweep_is_told_2000(swept, data):
    check(swept, data, has_page=data.draw(st.booleans(), "page"))
