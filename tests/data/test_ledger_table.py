"""How the lengths of samples are drawn."""

from __future__ import annotations

from ftlab.data.ledger.ledger import SplitLedger
from ftlab.data.ledger.table import lengths


def test_a_stretch_without_samples_takes_one_line_and_no_end_is_empty():
    split = SplitLedger()
    split.histogram = [[0, 10, 0], [10, 20, 8], [20, 30, 0], [30, 40, 0], [40, 50, 0], [50, 60, 1], [60, 70, 0]]
    _, *lines = lengths(split)
    cells = [line.split() for line in lines]
    assert [row[:4] for row in cells] == [["10", "to", "19", "8"], ["20", "to", "49", "0"], ["50", "to", "59", "1"]]
    assert len(cells[0][4]) > len(cells[2][4]) > 0 and len(cells[1]) == 4
