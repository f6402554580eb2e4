"""``experiment=pilot``: what a short run says about the whole one, and what that will take."""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.markup import escape
from rich.table import Table
from transformers import TrainerCallback

from ftlab.data.packing.split_builder import LEFT_OUT
from ftlab.engine.session import Session
from ftlab.measure import verdict
from ftlab.measure.verdict import Check, Judgement
from ftlab.preflight import fit
from ftlab.preflight.memory import device_of, predict
from ftlab.rundir.files import write_atomic
from ftlab.rundir.leaderboard_table import duration
from ftlab.rundir.names import PILOT
from ftlab.rundir.plan import Phase, Plan
from ftlab.rundir.records import read_ledger
from ftlab.schema import GrpoStage, PpoStage, Run
from ftlab.stages.order import step_order

FIRST = 5  # steps after which rewards are looked at
_VERDICTS: dict[Judgement, tuple[str, str]] = {
    "good": ("start", "[green]worth starting[/green]"),
    "unclear": ("look", "[yellow]look before you start[/yellow]"),
    "bad": ("do not start", "[red]not worth starting as it is[/red]"),
}


class FirstRewards(TrainerCallback):
    """Says after the first steps of ppo and grpo what keeps them from learning anything. A pilot ends there.

    :param is_pilot: whether the run is one.
    """

    def __init__(self, session: Session, is_pilot: bool):
        self._session, self._is_pilot = session, is_pilot

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logged = [entry for entry in state.log_history if verdict.REWARDED in entry]
        last = logged[-1] if logged and logged[-1]["step"] == state.global_step else None
        if last is None or state.global_step < min(FIRST, state.max_steps):
            return
        if len(logged) > 1 and logged[-2]["step"] >= FIRST:
            return  # it was said then
        wrong = [one for one in verdict.reward_checks(logged) if one.judgement == "bad"]
        for one in wrong:
            self._session.output.say(f"[yellow]step {state.global_step}: {escape(one.reason)}[/yellow]")
        if wrong and self._is_pilot:
            control.should_training_stop = True


@dataclass(frozen=True)
class Forecast:
    """What the whole of a phase will take.

    :param steps: optimizer steps. :param seconds: in all; :param low: with the quicker half of the steps; :param high:
        with the slower. None where fewer than three steps were timed. :param share: of the rows, that were read here.
    :param memory: bytes of one device, as predicted; :param pilot_memory: the same of the pilot;
    :param measured_memory: of that, what its GPU really held at most. :param fits: as of ``ftlab plan``.
    """

    steps: int
    seconds: float | None
    low: float | None
    high: float | None
    share: float
    memory: float
    pilot_memory: float
    measured_memory: float | None
    fits: str


def write_verdict(session: Session) -> None:
    """Judge every phase, write ``pilot_evaluation.json``, and say it: what one process of the run does."""
    plan, phases = session.plan, session.manifest.phases
    logged = session.run_dir.logged_by_phase()
    judged: list[tuple[Phase, list[Check], Forecast | None]] = []
    for phase in plan.phases:
        if phase.name not in phases:
            continue
        lines, result = logged.get(phase.name, []), phases[phase.name]
        found = list(verdict.checks(lines, result["before"], result["after"]))
        forecast = _forecast(session, phase, lines)
        if forecast.fits in ("tight", "does not fit"):
            told: Judgement = "bad" if forecast.fits == "does not fit" else "unclear"
            found.append(Check("memory", told, f"the whole run needs {fit.size(forecast.memory)}: {forecast.fits}"))
        judged.append((phase, found, forecast))
    _write(session, judged)


def write_failure(session: Session, error: str) -> None:
    """The verdict of a pilot that did not come to its end for a reason that the whole run would have too."""
    phase = session.phases_left()[0]
    _write(session, [(phase, [Check("run", "bad", error)], None)])


def _write(session: Session, judged: Sequence[tuple[Phase, Sequence[Check], Forecast | None]]) -> None:
    judgement = verdict.overall([check for _, checks, _ in judged for check in checks])
    word, told = _VERDICTS[judgement]
    command = whole_command(session.plan)
    values = {
        "verdict": word,
        "command": command,
        "phases": [
            {
                "name": phase.name,
                "pilot": {"steps": session.manifest.phases.get(phase.name, {}).get("steps"), **_changes(phase.config)},
                "checks": [check.as_dict() for check in checks],
                "whole": None if forecast is None else vars(forecast),
            }
            for phase, checks, forecast in judged
        ],
    }
    path = session.run_dir.path / PILOT
    write_atomic(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    say = session.output.say
    for phase, checks, forecast in judged:
        table = Table(title=f"{phase.name}: the pilot says", title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in checks:
            table.add_row(check.name, _COLOURS[check.judgement].format(check.judgement), escape(check.reason))
        say(table)
        for line in [] if forecast is None else _lines(phase.config, forecast):
            say(escape(line))
    say(f"Verdict: {told}. It is in {escape(str(path))}. The whole run:")
    say(f"  {escape(command)}")


_COLOURS: dict[Judgement, str] = {
    "good": "[green]{}[/green]", "unclear": "[yellow]{}[/yellow]", "bad": "[red]{}[/red]",
}  # fmt: skip


def _changes(config: Run) -> dict[str, Any]:
    return {"instead_of": config.pilot.full}


def _lines(config: Run, forecast: Forecast) -> Iterator[str]:
    if forecast.seconds is not None and forecast.low is not None and forecast.high is not None:
        of = "" if forecast.share == 1 else f", as far as {forecast.share:.1%} of the rows tell"
        quant = ""
        if "quant.name" in (config.pilot.full or {}):
            quant = ", at the pace of 4-bit weights, which it does not have"
        between = f"{duration(forecast.low)} to {duration(forecast.high)}"
        yield f"The whole of it: {forecast.steps:,} steps in about {duration(forecast.seconds)} ({between}){of}{quant}."
    measured = f", of which the pilot's {fit.size(forecast.pilot_memory)} came to {{}}"
    came = "" if forecast.measured_memory is None else measured.format(fit.size(forecast.measured_memory))
    yield f"Its memory: about {fit.size(forecast.memory)} of one device as predicted{came}: {forecast.fits}."


def whole_command(plan: Plan) -> str:
    """The command line of the whole run, in a folder of its own."""
    kept = []
    for word in plan.overrides:
        key, _, value = word.partition("=")
        if key == "experiment":
            names = [name for name in value.strip("[]").split(",") if name != "pilot"]
            if names:
                kept.append(f"experiment={names[0] if len(names) == 1 else '[' + ','.join(names) + ']'}")
        elif not key.lstrip("+").startswith(("pilot.", "run.")):
            kept.append(word)
    return shlex.join(["ftlab", *kept])


def _forecast(session: Session, phase: Phase, lines: verdict.Lines) -> Forecast:
    config = phase.config
    whole = config.with_values({**(config.pilot.full or {}), "pilot.full": None, "pilot.steps": None})
    ledger = read_ledger(session.run_dir.ledger(phase.name))
    assert ledger is not None, "the phase is done"
    train = ledger["splits"]["train"]
    unread = train["dropped"].get(LEFT_OUT, {"rows": 0})["rows"]
    share = (train["rows"]["in"] - unread) / train["rows"]["in"]
    asks = isinstance(config.stage, PpoStage | GrpoStage)
    count = train["rows"]["kept"] if asks else train["packing"]["rows"]
    steps = step_order(whole, math.ceil(count / share)).steps
    low, seconds, high = _seconds(lines, whole, steps, share)
    here = predict(config, device_of(config, is_here=True))
    there = predict(whole, device_of(whole, is_here=True))
    return Forecast(
        steps=steps, seconds=seconds, low=low, high=high, share=share, memory=there.needed,
        pilot_memory=here.needed, measured_memory=_most_allocated(), fits=fit.verdict(there),
    )  # fmt: skip


def _seconds(lines: verdict.Lines, whole: Run, steps: int, share: float) -> tuple[float | None, ...]:
    """Quicker, usual and slower: what comes before the first step, as many steps as there will be, and their
    evaluations."""
    trained = [line for line in lines if "loss" in line and "seconds" in line]
    evaluated = {line["step"]: line["seconds"] for line in lines if "eval_loss" in line and "seconds" in line}
    ends = {line["step"]: line["seconds"] for line in trained}
    paces = sorted(
        (after["seconds"] - before["seconds"]) / (after["step"] - before["step"])
        for before, after in pairwise(trained)
        if before["step"] not in evaluated
    )
    if len(paces) < 3:
        return None, None, None
    waits = [evaluated[step] - ends[step] for step in evaluated if step in ends]
    # The rows that an evaluation takes are as many times more as those that train.
    evaluation = statistics.mean(waits) / share if waits else 0.0
    often = steps // whole.eval.steps if waits else 0
    begin = trained[0]["seconds"] - paces[len(paces) // 2]
    quarter = len(paces) // 4
    found = (paces[quarter], paces[len(paces) // 2], paces[-1 - quarter])
    return tuple(begin + pace * steps + evaluation * often for pace in found)


def _most_allocated() -> float | None:
    import torch

    return float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
