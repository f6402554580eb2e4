"""Prompts that a row holds once for two answers.

Shape suffixes: S samples of a row or a batch, T tokens of a row, N scored positions of a batch.
"""

from __future__ import annotations

import numpy as np

from ftlab.data.packing.store import SHARED, PackedRow, spans
from ftlab.data.tokens.encoder import Counts


def leave_out_shared(row: PackedRow) -> PackedRow:
    """The row without the tokens that stand in the sample before theirs; what is left of each sample attends to them
    there. None of them is learned.
    """
    shared_S = row.columns[SHARED]
    own_S = row.lengths - shared_S
    places = spans(row.lengths.cumsum() - own_S, own_S)
    return PackedRow.of_tokens(row.input_ids[places], row.learned[places], own_S, row.columns)


def prefix_starts(starts_S: Counts, shared_S: Counts) -> Counts:
    """Places of the first token that each sample shares, which is that of the sample before it; 0 where it has none."""
    return np.where(shared_S > 0, np.roll(starts_S, 1), 0)


def scored_places(labelled_N: Counts, segments_N: Counts, starts_S: Counts, shared_S: Counts) -> Counts:
    """Places that predict labels: those before them. Where a sample's own tokens begin with a label, that is the last
    token that it shares, which may predict a label of the sample before it as well.

    :param labelled_N: places of labels. :param segments_N: the sample of each.
    """
    last_shared_N = (prefix_starts(starts_S, shared_S) + shared_S - 1)[segments_N]
    return np.where(labelled_N == starts_S[segments_N], last_shared_N, labelled_N - 1)
