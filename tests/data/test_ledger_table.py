"""How the lengths of samples are drawn."""

from __future__ import annotations

import re

import pytest

from ftlab.data.ledger.ledger import SplitLedger
from ftlab.data.ledger.table import ledger_lines, lengths
from tests.data.helpers import alpaca, row


def test_a_stretch_without_samples_takes_one_line_and_no_end_is_empty():
    split = SplitLedger()
    split.histogram = [[0, 10, 0], [10, 20, 8], [20, 30, 0], [30, 40, 0], [40, 50, 0], [50, 60, 1], [60, 70, 0]]
    _, *lines = lengths(split)
    cells = [line.split() for line in lines]
    assert [row[:4] for row in cells] == [["10", "to", "19", "8"], ["20", "to", "49", "0"], ["50", "to", "59", "1"]]
    assert len(cells[0][4]) > len(cells[2][4]) > 0 and len(cells[1]) == 4


@pytest.mark.parametrize("truncation", ["drop", "right"])
def test_the_length_that_keeps_rows_whole_is_told_and_does(truncation, bench, write):
    """In training and in ``ftlab inspect``, which both show these lines."""
    path = write("rows.jsonl", [row("1", "2 " * count) for count in (1, 1, 1, 90)])
    given = alpaca(path, f"data.truncation={truncation}")

    def told(length: int) -> list[int]:
        lines = map(str, ledger_lines(bench.prepare(*given, f"data.max_length={length}").ledger, False, None))
        return [
            int(found[1]) for line in lines if (found := re.match(r"train: data\.max_length=(\d+) would keep", line))
        ]

    (length,) = told(64)
    assert length > 64 and told(length) == []
    split = bench.prepare(*given, f"data.max_length={length}").ledger.as_dict()["splits"]["train"]
    assert (split["rows"]["kept"], split["rows"]["truncated"]) == (4, 0)
