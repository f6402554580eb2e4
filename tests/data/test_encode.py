"""Text to tokens and labels: nothing lost, nothing learned twice, whatever stands beside it in the batch."""

from __future__ import annotations

import doctest
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data import encode
from ftlab.data.encode import IGNORE, Sample, chunk, chunk_spans, cut, encode_rendered, encode_texts
from ftlab.data.formats import Conversation

lengths_sizes_overlaps = st.integers(1, 40).flatmap(
    lambda size: st.tuples(st.integers(1, 200), st.just(size), st.integers(0, size - 1))
)


def learned(ids):
    """A sample that learns everything but its first token."""
    ids = np.asarray(ids, dtype=np.int32)
    labels = ids.copy()
    labels[:1] = IGNORE
    return Sample(ids, labels)


@pytest.mark.parametrize(
    ("length", "size", "overlap", "expected"),
    [
        (10, 4, 1, [(0, 4), (3, 7), (6, 10)]),
        (10, 4, 0, [(0, 4), (4, 8), (8, 10)]),
        (8, 4, 0, [(0, 4), (4, 8)]),
        (4, 4, 3, [(0, 4)]),
        (5, 4, 3, [(0, 4), (1, 5)]),
        (3, 4, 2, [(0, 3)]),
        (1, 1, 0, [(0, 1)]),
    ],
)
def test_chunk_spans(length, size, overlap, expected):
    assert chunk_spans(length, size, overlap) == expected


def test_the_example_of_chunk_spans_is_true():
    found = doctest.DocTestFinder().find(chunk_spans, globs={"chunk_spans": chunk_spans})
    results = [doctest.DocTestRunner().run(test) for test in found]
    assert sum(result.attempted for result in results) == 1
    assert sum(result.failed for result in results) == 0


@settings(deadline=None)
@given(lengths_sizes_overlaps)
def test_chunks_cover_everything_and_share_exactly_the_overlap(case):
    length, size, overlap = case
    spans = chunk_spans(length, size, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(end - start == size for start, end in spans[:-1])
    assert 0 < spans[-1][1] - spans[-1][0] <= size
    assert all(before[1] - after[0] == overlap for before, after in pairwise(spans))
    assert all(after[1] > before[1] for before, after in pairwise(spans))


@settings(deadline=None)
@given(lengths_sizes_overlaps)
def test_every_token_is_learned_once_over_chunks_that_overlap(case):
    length, size, overlap = case
    times_learned = np.zeros(length, dtype=int)
    parts = chunk(learned(range(length)), size, overlap)
    for part in parts:
        assert len(part.input_ids) <= size
        np.add.at(times_learned, part.labels[part.labels != IGNORE], 1)
        assert part.labels[0] == IGNORE
    firsts = {start for start, _ in chunk_spans(length, size, overlap)} if overlap == 0 else {0}
    assert set(np.flatnonzero(times_learned == 0)) == firsts
    assert times_learned.max(initial=0) <= 1


def test_chunks_token_by_token():
    parts = chunk(learned([10, 11, 12, 13, 14, 15, 16]), 4, 2)
    assert [part.input_ids.tolist() for part in parts] == [[10, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16]]
    assert [part.labels.tolist() for part in parts] == [
        [IGNORE, 11, 12, 13],
        [IGNORE, IGNORE, 14, 15],
        [IGNORE, IGNORE, 16],
    ]


def test_chunking_leaves_the_sample_as_it_was():
    sample = learned([10, 11, 12, 13, 14])
    chunk(sample, 3, 1)
    assert sample.labels.tolist() == [IGNORE, 11, 12, 13, 14]


def test_cut_keeps_the_beginning_and_invents_no_end():
    short = cut(learned([10, 11, 12, 13, 14]), 3)
    assert short.input_ids.tolist() == [10, 11, 12]
    assert short.labels.tolist() == [IGNORE, 11, 12]
    assert short.trained == 2


def test_texts_end_with_the_end_token_and_learn_everything_but_the_first(bench):
    end = bench.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    samples = list(encode_texts(bench.tokenizer, ["123", "4"], end))
    assert [bench.pieces(sample) for sample in samples] == [
        [("1", False), ("2", True), ("3", True), ("<|endoftext|>", True)],
        [("4", False), ("<|endoftext|>", True)],
    ]


def conversation(question, *answers, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for answer in answers:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(messages)


@pytest.fixture(scope="module")
def rendered(bench):
    """More conversations than one call of the tokenizer takes, of all lengths."""
    draw = random.Random(7)
    words = ["alpha", "12", "漢字", "😀", "é", "e\u0301", "\n", "if x:", "<tool_call>"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 30))) for _ in range(encode.BATCH + 30)]
    return [bench.template.render(conversation(text, "a " + text, "b")) for text in texts]


def as_lists(samples):
    return [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in samples]


def test_a_row_is_encoded_the_same_in_any_company(bench, rendered):
    together = as_lists(encode_rendered(bench.tokenizer, rendered, "assistant"))
    assert len(together) == encode.BATCH + 30
    assert as_lists(encode_rendered(bench.tokenizer, rendered[::-1], "assistant"))[::-1] == together
    for place in (0, 1, 500, encode.BATCH - 1, encode.BATCH, encode.BATCH + 29):
        assert as_lists(encode_rendered(bench.tokenizer, [rendered[place]], "assistant")) == [together[place]]


def test_a_text_is_encoded_the_same_in_any_company(bench, rendered):
    texts = [item.text for item in rendered]
    end = bench.tokenizer.eos_token_id
    together = as_lists(encode_texts(bench.tokenizer, texts, end))
    assert len(together) == encode.BATCH + 30
    for place in (0, encode.BATCH - 1, encode.BATCH, encode.BATCH + 29):
        assert as_lists(encode_texts(bench.tokenizer, [texts[place]], end)) == [together[place]]
        assert bench.decode(together[place][0]) == texts[place] + bench.tokenizer.eos_token


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_row_is_encoded_the_same_in_every_batch_composition(bench, rendered, data):
    places = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    expected = [as_lists(encode_rendered(bench.tokenizer, [rendered[place]], "last"))[0] for place in places]
    assert as_lists(encode_rendered(bench.tokenizer, [rendered[place] for place in places], "last")) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "😀",
        "👩‍👩‍👧‍👦 family",
        "漢字かな交じり文",
        "e\u0301e\u0301",
        "\u0301 a combining mark first",
        "नमस्ते",
        "שלום عليكم",
        "zero\u200bwidth\ufeff",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        "tab\tand nbsp\u00a0.",
        "ends in line breaks\n\n",
        "\x00\x07 control",
        " a leading space",
        "\ta leading tab",
    ],
)
def test_unicode_keeps_exact_spans(bench, answer):
    sample = bench.encode(conversation("漢字 😀?", answer, "ok", system="é 👍🏽").messages)
    assert bench.trained(sample) == f"{answer}<|im_end|>ok<|im_end|>"
    assert bench.decode(sample.input_ids[sample.labels == IGNORE]) == (
        "<|im_start|>system\né 👍🏽<|im_end|>\n"
        "<|im_start|>user\n漢字 😀?<|im_end|>\n<|im_start|>assistant\n"
        "\n<|im_start|>user\n漢字 😀?<|im_end|>\n<|im_start|>assistant\n"
        "\n"
    )


# Line breaks that open an answer run into the header's own (test_templates.py has that case).
contents = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
answers_of = contents.filter(lambda text: not text[0].isspace())


@settings(max_examples=100, deadline=None)
@given(system=st.none() | contents, exchanges=st.lists(st.tuples(contents, answers_of), min_size=1, max_size=4))
def test_the_trained_text_is_the_answers_and_their_ends(bench, system, exchanges):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for question, answer in exchanges:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    sample = bench.encode(messages)
    assert bench.trained(sample) == "".join(f"{answer}<|im_end|>" for _, answer in exchanges)
    assert bench.trained(bench.encode(messages, "last")) == f"{exchanges[-1][1]}<|im_end|>"
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system is not None else ""
    assert bench.decode(sample.input_ids) == head + "".join(
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
        for question, answer in exchanges
    )


@settings(max_examples=50, deadline=None)
@given(question=contents, lead=st.text(" \t\r\n\u00a0\u2028", min_size=1, max_size=4), answer=answers_of)
def test_of_white_space_that_opens_an_answer_no_template_text_is_learned(bench, question, lead, answer):
    sample = bench.encode(conversation(question, lead + answer).messages)
    trained = bench.trained(sample)
    assert f"{lead}{answer}<|im_end|>".endswith(trained)
    assert trained.endswith(f"{answer}<|im_end|>")
