"""Prompts that are asked together are padded on the left: no family may count the padding."""

from __future__ import annotations

from tests.compatibility import GENERATING, row_of


def test_a_family_with_learned_positions_scores_what_it_sampled():
    """Under grpo it had counted the padding: log-probabilities of answers were off by 0.1."""
    assert row_of("gpt2", GENERATING) == ["", "yes", "yes"]


def test_a_family_whose_convolutions_read_padding_is_refused():
    assert row_of("recurrent_gemma", ("grpo",)) == ["", "refused"]
