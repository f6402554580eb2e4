"""The answers of a report: each prompt with the answer of the base and those of the runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ftlab.use.report.collect import Answered, Report, RunPage
from ftlab.use.report.markup import as_text, preformatted, quiet, section, swatch

_OPEN = 3  # prompts whose answers are unfolded


def answers(report: Report) -> str:
    if not report.answered:
        return section("answers", "Answers", quiet("No run has answered prompts."))
    phases = {one.phase for one in report.answered}
    parts = [
        quiet(
            "Each prompt with the answer before training and those after it; runs with the same answer share one. "
            "✓ is an answer that is the expected one."
        )
    ]
    for at, one in enumerate(report.answered):
        phase = f'<span class="quiet">{as_text(one.phase)}</span> ' if len(phases) > 1 else ""
        last = next((line for line in reversed(one.prompt.splitlines()) if line.strip()), "(an empty prompt)")
        right = sum(_is_right(answer, one.expected) for answer in one.answers.values())
        share = f' <span class="quiet">{right} of {len(one.answers)} right</span>' if one.expected is not None else ""
        parts.append(
            f"<details{' open' if at < _OPEN else ''}><summary>{phase}{as_text(last)}{share}</summary>"
            f"{_cards(one, report.runs)}</details>"
        )
    return section("answers", "Answers side by side", *parts)


def _cards(one: Answered, runs: Sequence[RunPage]) -> str:
    cards = [_card("prompt", one.prompt, None)]
    cards += [_card("expected", one.expected, None)] if one.expected is not None else []
    cards += [_card("base", answer, one.expected) for answer in dict.fromkeys(one.base.values())]
    by_answer: dict[str, list[RunPage]] = {}
    for run in runs:  # the best first
        if run.entry.number in one.answers:
            by_answer.setdefault(one.answers[run.entry.number], []).append(run)
    for answer, same in by_answer.items():
        chips = (
            f'<span class="chip" data-run="{run.entry.number}">{swatch(run)} {as_text(run.label)}</span>'
            for run in same
        )
        cards.append(_card("".join(chips), answer, one.expected))
    return f'<div class="grid answers">{"".join(cards)}</div>'


def _card(heading: str, text: str, expected: str | None) -> str:
    """:param heading: HTML."""
    right = _is_right(text, expected)
    mark = ' <span class="right" role="img" aria-label="as expected">✓</span>' if right else ""
    kind = "card expected" if right else "card"
    return f'<div class="{kind}"><h4>{heading}{mark}</h4><pre>{preformatted(text) or "<i>nothing</i>"}</pre></div>'


def _is_right(answer: str, expected: str | None) -> bool:
    """As the exact match of golden prompts has it."""
    return expected is not None and answer.strip() == expected.strip()
