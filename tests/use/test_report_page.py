"""The page of ``ftlab report`` in a real browser: nothing leaves it, curves are drawn, all of it can be reached."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlab.use.report.collect import collect
from ftlab.use.report.page import page
from tests.browser import CHROMIUM, DRIVER, LACKING, Browser, browser
from tests.sweeps import answer, begin, log, record, sweep_of, write_run

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=LACKING),
]
NASTY = "</script><script>window.broken = true</script><img src=http://example.org/x onerror='window.broken = true'>"
RANKS, RATES = (4, 8, 16, 32), (1e-4, 3e-4, 1e-3, 3e-3)
SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}


def make_sweep(folder: Path) -> None:
    """16 jobs, of which one has failed after some steps and one has not begun."""
    draws = random.Random(0)
    sweep = sweep_of(folder, [(f"lora.r={r}", f"train.learning_rate={rate:g}") for r in RANKS for rate in RATES])
    for number in range(15):
        rate = RATES[number % 4]
        end = 2.0 + abs(math.log10(rate / 1e-3)) + number / 50
        is_failed = number == 6
        after = {} if is_failed else {"validation_loss": end, "golden_exact_match": 1 / end}
        begun = begin(sweep, number, "out of memory" if is_failed else None)
        path = write_run(begun, "failed" if is_failed else "finished", **after)
        record(path, rerun=f"ftlab lora.r={RANKS[number // 4]}", folder="/home/me")
        for step in range(21):
            line = {"step": step, "global_step": step, "total_tokens": step * 100, "seconds": step * 1.5}
            value = end + 6 * math.exp(-step / 5)
            if step:
                log(path, {**line, "loss": value + draws.random(), "tokens_per_second": 70.0, "learning_rate": rate})
            if step % 5 == 0 and not is_failed:
                log(path, {**line, "eval_loss": value})
        answer(path, "before", (f"Q {NASTY}", "yes", "no"), ("Second?", None, "two"))
        answer(path, "after", (f"Q {NASTY}", "yes", "yes" if number % 2 else NASTY), ("Second?", None, "2"))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    make_sweep(folder / "s")
    path = folder / "report.html"
    path.write_text(page(collect([str(folder / "s")], None), smoothing=0.6), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def opened(window, written) -> Browser:
    """The page, just opened, in a window of a desktop."""
    window.prefer("light")
    window.resize(*SIZES["desktop"])
    window.requests(), window.console()
    window.open(written.as_uri())
    window.run("localStorage.clear()")
    return window


def count(window: Browser, selector: str) -> int:
    return window.run("return document.querySelectorAll(arguments[0]).length", selector)


def column(window: Browser, name: str) -> list[str]:
    """The values of a column of the leaderboard, from top to bottom."""
    return window.run(
        """const table = document.getElementById("leaderboard");
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === arguments[0]);
        return [...table.tBodies[0].rows].map((row) => row.cells[at].dataset.value)""",
        name,
    )


def click(window: Browser, name: str) -> str | None:
    """Click a column's name; how the column is sorted then."""
    return window.run(
        """const head = [...document.querySelectorAll("#leaderboard th")].find((th) => th.textContent === arguments[0]);
        head.querySelector("button").click();
        return head.getAttribute("aria-sort")""",
        name,
    )


def test_nothing_leaves_the_page_and_nothing_goes_wrong(opened, written):
    for name in ("axis", "logarithmic"):  # everything is drawn again
        opened.run("document.getElementById(arguments[0]).dispatchEvent(new Event('change'))", name)
    opened.run("document.getElementById('theme').click()")
    assert [url for url in opened.requests() if not url.startswith(("data:", "blob:"))] == [written.as_uri()]
    assert opened.console() == []
    assert opened.run("return window.broken === undefined")
    assert count(opened, "img") == 0 and count(opened, "a[href]:not([href=''])") == count(opened, ".modebar a[href]")
    assert opened.run("return document.body.textContent.includes('window.broken = true')"), "it is shown as text"


def test_the_watch_would_see_a_request(opened, tmp_path):
    (tmp_path / "leak.html").write_text("<img src='http://127.0.0.1:9/leak.png'>")
    opened.open((tmp_path / "leak.html").as_uri())
    assert "http://127.0.0.1:9/leak.png" in opened.requests()
    assert any("ERR_" in line for line in opened.console())


def test_every_curve_is_drawn(opened):
    assert count(opened, "#chart-train .scatterlayer .trace path.js-line") == 2 * 15, "as logged, and smoothed"
    assert count(opened, "#chart-measured .scatterlayer .trace path.js-line") == 14
    assert count(opened, "#chart-parallel .scatterlayer .trace path.js-line") == 14
    assert count(opened, "[data-scatter]") == 3
    assert count(opened, "[data-scatter] .scatterlayer .trace path.point") == 3 * 14
    lengths = opened.run("return [...document.querySelectorAll('path.js-line')].map((path) => path.getTotalLength())")
    assert min(lengths) > 50, "none is a point"


def test_what_the_reader_chooses_is_drawn(opened):
    opened.run("const s = document.getElementById('smoothing'); s.value = 0; s.dispatchEvent(new Event('input'))")
    assert count(opened, "#chart-train path.js-line") == 15
    drawn = "return document.getElementById('chart-train').data[0]"
    assert opened.run(f"{drawn}.x.slice(0, 3)") == [1, 2, 3]
    opened.run("const a = document.getElementById('axis'); a.value = '1'; a.dispatchEvent(new Event('change'))")
    assert opened.run(f"{drawn}.x.slice(0, 3)") == [100, 200, 300]
    opened.run(
        "const m = document.querySelector('select[data-chart=train]'); m.value = 'learning_rate';"
        "m.dispatchEvent(new Event('change'))"
    )
    assert opened.run(f"{drawn}.y[0]") == RATES[0]
    opened.run("document.querySelector('[data-switch=\"3\"]').click()")
    assert count(opened, "#chart-train path.js-line") == 14 and count(opened, "#chart-measured path.js-line") == 13
    opened.run("document.querySelector('[data-show=best]').click()")
    assert count(opened, "#chart-measured path.js-line") == count(opened, "[data-switch]:checked") == 5


def test_the_smoothed_curve_is_the_mean_that_it_says(opened):
    faint, smooth = opened.run("return document.getElementById('chart-train').data.slice(0, 2).map((one) => one.y)")
    total = weight = 0.0
    for at, value in enumerate(faint):
        total, weight = 0.6 * total + 0.4 * value, 0.6 * weight + 0.4
        assert smooth[at] == pytest.approx(total / weight)


def test_the_leaderboard_has_every_job_and_sorts(opened):
    assert count(opened, "#leaderboard tbody tr") == 16
    ranks = column(opened, "rank")
    assert ranks == [*map(str, range(1, 15)), "", ""]
    assert click(opened, "train loss") == "ascending"
    values = column(opened, "train loss")
    numbers = [float(value) for value in values if value]
    assert numbers == sorted(numbers) and len(numbers) == 15 and values[-1] == ""
    assert click(opened, "train loss") == "descending"
    assert [float(value) for value in column(opened, "train loss") if value] == numbers[::-1]
    assert column(opened, "train loss")[-1] == "", "what is missing stays last"
    assert click(opened, "lora.r") == "ascending"
    assert column(opened, "lora.r") == [f"{rank:.1f}" for rank in RANKS for _ in range(4)], "as numbers, not as words"
    assert count(opened, "th[aria-sort]") == 1


def test_the_keyboard_reaches_everything(opened):
    tab, enter = "\ue004", "\ue007"
    reached = []
    for _ in range(80):
        opened.press(tab)
        reached.append(opened.run(
            "const e = document.activeElement, own = e.dataset;"
            "return e.id || own.copy || own.show || own.switch || own.chart || e.tagName + e.className"
        ))  # fmt: skip
    assert reached[:3] == ["theme", "rerun", "rerun"]
    assert {"all", "best", "0", "15", "BUTTONsort", "axis", "smoothing", "train", "measured", "SUMMARY"} <= {*reached}
    opened.run("document.querySelectorAll('#leaderboard button.sort')[1].focus()")
    opened.press(enter)
    assert opened.run("return document.querySelectorAll('#leaderboard th')[1].getAttribute('aria-sort')") == "ascending"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(opened, written, scheme, size):
    """No wider than the window; ground, text and pictures follow the system, and the button wins over it."""
    opened.prefer(scheme)
    opened.resize(*SIZES[size])
    opened.open(written.as_uri())
    assert opened.run("return document.documentElement.scrollWidth") <= SIZES[size][0]
    outside = opened.run(
        "return [...document.querySelectorAll('.chart')].filter((chart) => !chart.closest('.wide') &&"
        "chart.querySelector('.main-svg').getBoundingClientRect().right > innerWidth).length"
    )
    assert outside == 0
    ground = "return getComputedStyle(document.body).backgroundColor"
    text = "return document.querySelector('#chart-train .xtitle').style.fill"
    colours = {"light": ("rgb(255, 255, 255)", "rgb(91, 100, 114)"), "dark": ("rgb(20, 23, 28)", "rgb(163, 172, 186)")}
    assert (opened.run(ground), opened.run(text)) == colours[scheme]
    other = {"light": "dark", "dark": "light"}[scheme]
    for _ in range(2 if other == "dark" else 1):  # as the system, light, dark
        opened.run("document.getElementById('theme').click()")
    assert (opened.run(ground), opened.run(text)) == colours[other]
