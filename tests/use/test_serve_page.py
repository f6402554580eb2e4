"""The page of ``ftlab serve`` in a real browser: a prompt, the base and two runs side by side, nothing from outside."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.browser import CHROMIUM, DRIVER, LACKING, Browser, browser
from tests.runs import train_run
from tests.use.test_serve import serving

pytestmark = [pytest.mark.matrix, pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=LACKING)]
GIVEN = (
    "model=tiny", "data.max_samples=200", "train.learning_rate=1e-2", "tracker=none", "eval.golden_rows=4",
    "eval.samples=2", "eval.max_new_tokens=8", "data.split.validation=none", "train.logging_steps=1",
)  # fmt: skip
ASKED = "Give the capital city. Country: Norway"
FIELD = "textarea[placeholder^='Enter asks']"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    train_run(folder / "a", *GIVEN, "train.max_steps=8")
    train_run(folder / "b", *GIVEN, "train.max_steps=3", "seed=3")
    return folder


@pytest.fixture(scope="module")
def address(trained) -> Iterator[str]:
    runs = (str(trained / "a"), str(trained / "b"))
    with serving(*runs, "compare=base", "page=true", "max_new_tokens=12") as found:
        yield found


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.resize(1280, 900)
        yield opened


def wait(window: Browser, script: str, seconds: float = 120) -> object:
    """What a script of the page returns, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := window.run(script)):
        assert time.monotonic() < deadline, window.run("return document.body.innerText")
        time.sleep(0.1)
    return found


def write(window: Browser, selector: str, text: str) -> None:
    """Fill a field as typing does."""
    window.run(
        "const field = document.querySelector(arguments[0]);"
        "Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), 'value').set.call(field, arguments[1]);"
        "field.dispatchEvent(new Event('input', {bubbles: true})); field.focus();",
        selector,
        text,
    )


def click(window: Browser, name: str, kind: str = "button") -> None:
    """Press what is called so. :param kind: its selector."""
    find = "[...document.querySelectorAll(arguments[0])].find(one => one.innerText.trim().startsWith(arguments[1]))"
    window.run(f"{find}.click()", kind, name)


def answers(window: Browser) -> list[str]:
    """The last message of each column."""
    return window.run(
        "return [...document.querySelectorAll('.bubble-wrap')].map(column => "
        "[...column.querySelectorAll('.message.bot')].at(-1)?.innerText.trim() ?? '')"
    )


def test_one_prompt_is_answered_side_by_side_and_nothing_leaves_the_machine(window, address, tmp_path):
    window.requests()
    window.open(address)
    wait(window, f"return document.querySelector({FIELD!r}) !== null")
    write(window, FIELD, ASKED)
    window.press("\ue007")
    speeds = "[...document.querySelectorAll('.prose.speed')]"
    wait(window, f"return {speeds}.filter(one => /tokens?,/.test(one.innerText)).length === 3")
    told = answers(window)
    with httpx.Client(trust_env=False, base_url=address, timeout=60) as asking:
        for name, answer in zip(("base", "a", "b"), told, strict=True):
            body = {"model": name, "messages": [{"role": "user", "content": ASKED}]}
            found = asking.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            assert answer == found.strip(), (name, told)
    labels = window.run("return document.body.innerText")
    assert all(name in labels for name in ("base", "a", "b")) and len(set(told)) > 1
    window.screenshot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "serve-ask.png")
    # The runs: curves and samples.
    click(window, "Runs", "button[role=tab]")
    drawn = "document.querySelector('iframe')?.contentDocument?.querySelectorAll('.js-plotly-plot')"
    wait(window, f"return {drawn}.length > 0")
    window.screenshot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / "serve-runs.png")
    outside = [url for url in window.requests() if url.startswith(("http", "ws")) and not url.startswith(address)]
    assert outside == []


def test_a_setting_that_is_none_is_told_and_an_answer_stops(window, address):
    window.open(address)
    wait(window, f"return document.querySelector({FIELD!r}) !== null")
    click(window, "Settings")
    wait(window, "return document.querySelector('#setting-temperature textarea, #setting-temperature input') !== null")
    field = "#setting-temperature textarea, #setting-temperature input"
    write(window, field, "warm")
    write(window, FIELD, ASKED)
    window.press("\ue007")
    wait(window, "return /temperature=warm: must be a valid number/.test(document.body.innerText)")
    write(window, field, "30")
    write(window, "#setting-max_new_tokens textarea, #setting-max_new_tokens input", "2000")
    write(window, FIELD, ASKED)
    window.press("\ue007")
    wait(window, "return [...document.querySelectorAll('.message.bot')].some(one => one.innerText.length > 40)")
    click(window, "Stop")
    with httpx.Client(trust_env=False, base_url=address, timeout=60) as asking:  # all of them are free again
        for name in ("base", "a", "b"):
            body = {"model": name, "messages": [{"role": "user", "content": ASKED}]}
            assert asking.post("/v1/chat/completions", json=body).status_code == 200


def test_the_page_asks_for_the_password(window, trained, monkeypatch):
    monkeypatch.setenv("FTLAB_PASSWORD", "s3cret")
    with serving(str(trained / "a"), "page=true") as address:
        with httpx.Client(trust_env=False, base_url=address) as asking:
            assert asking.get("/").status_code == asking.get("/report").status_code == 401
            assert asking.get("/config").status_code == 401
        known = base64.b64encode(b"me:s3cret").decode()
        window.devtools("Network.enable")
        window.devtools("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {known}"})
        window.open(address)
        wait(window, f"return document.querySelector({FIELD!r}) !== null")
        window.devtools("Network.setExtraHTTPHeaders", headers={})
