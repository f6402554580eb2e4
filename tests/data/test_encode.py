"""Text to tokens and labels: nothing lost, nothing learned twice, whatever stands beside it in the batch."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.data.formats import Conversation
from ftlab.data.tokens.encoder import Encoder
from tests.data.byte_tokenizers import MULTI_BYTE, byte_level, in_transformers

COUNT = 300


def conversation(question, *answers, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for answer in answers:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(messages)


@pytest.fixture(scope="module")
def drawn():
    """Conversations of all lengths."""
    draw = random.Random(7)
    words = ["alpha", "12", "漢字", "😀", "é", "e\u0301", "\n", "if x:", "<tool_call>"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 30))) for _ in range(COUNT)]
    return [conversation("q " + text, "a " + text, "b") for text in texts]


def as_lists(samples):
    return [(sample.input_ids.tolist(), sample.labels.tolist()) for sample in samples]


def test_a_row_is_encoded_the_same_in_any_company(bench, drawn):
    together = as_lists(bench.encode_all(drawn))
    assert len(together) == COUNT
    assert as_lists(bench.encode_all(drawn[::-1]))[::-1] == together
    for place in (0, 1, 150, COUNT - 1):
        assert as_lists(bench.encode_all([drawn[place]])) == [together[place]]


def test_a_text_is_encoded_the_same_in_any_company(bench, drawn):
    texts = [bench.template.render(one).text for one in drawn]
    nothing = [[]] * COUNT
    together = bench.encoder.encode(texts, nothing)
    ends = together.counts.cumsum()
    for place in (0, 1, 150, COUNT - 1):
        alone = bench.encoder.encode([texts[place]], nothing[:1])
        ids = together.ids[ends[place] - together.counts[place] : ends[place]]
        assert alone.ids.tolist() == ids.tolist()
        assert bench.decode(ids) == texts[place]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_row_is_encoded_the_same_in_every_batch_composition(bench, drawn, data):
    places = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    expected = [as_lists(bench.encode_all([drawn[place]], "last"))[0] for place in places]
    assert as_lists(bench.encode_all([drawn[place] for place in places], "last")) == expected


ANSWERS = [
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
    "\x07 control",
    " a leading space",
    "\ta leading tab",
]


def test_unicode_keeps_exact_spans(bench, subtests):
    samples = bench.encode_all([conversation("漢字 😀?", answer, "ok", system="é 👍🏽") for answer in ANSWERS])
    for answer, sample in zip(ANSWERS, samples):
        with subtests.test(ascii(answer)):
            assert bench.trained(sample) == f"{answer}<|im_end|>ok<|im_end|>"
            assert bench.decode(sample.input_ids[~sample.learned]) == (
                "<|im_start|>system\né 👍🏽<|im_end|>\n"
                "<|im_start|>user\n漢字 😀?<|im_end|>\n<|im_start|>assistant\n"
                "\n<|im_start|>user\n漢字 😀?<|im_end|>\n<|im_start|>assistant\n"
                "\n"
            )


# Line breaks that open an answer run into the header's own (test_templates.py has that case).
# A message of nothing but white space is empty, and no row.
contents = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30).filter(
    lambda text: not text.isspace()
)
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


# --- masks of both ways of encoding ----------------------------------------------------------------------------------


def encoders(tokenizer):
    return Encoder(tokenizer), Encoder(tokenizer, fast=False)


def both(fast, slow, texts, spans):
    """Ids and masks by tiktoken's core, and by the tokenizer itself."""
    assert fast.engine == "tiktoken's core"
    assert slow.engine == "tokenizers: another result was found on this data"
    return [
        (found.ids.tolist(), found.trained.tolist(), found.counts.tolist())
        for found in (one.encode(texts, spans) for one in (fast, slow))
    ]


pieces = st.lists(st.sampled_from(MULTI_BYTE), max_size=8)


@st.composite
def texts_with_spans(draw):
    parts = draw(st.lists(st.tuples(pieces.map("".join), st.booleans()), max_size=6))
    text, spans = "", []
    for part, is_trained in parts:
        if is_trained and part:
            spans.append((len(text), len(text) + len(part)))
        text += part
    return text, spans


def test_masks_by_bytes_are_masks_by_offsets(bench):
    of_bench = encoders(bench.tokenizer)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(texts_with_spans(), min_size=1, max_size=5))
    def check(rows):
        fast, slow = both(*of_bench, [text for text, _ in rows], [spans for _, spans in rows])
        assert fast == slow

    check()


def test_a_token_that_begins_before_a_span_is_not_trained():
    tokenizer = in_transformers(byte_level([("a", "b"), ("Ġ", "a")]))
    texts = ["xaby", "é漢", " a"]
    # Within the token ab; a character of three tokens; the a of a token with a space.
    spans = [[(2, 4)], [(1, 2)], [(1, 2)]]
    fast, slow = both(*encoders(tokenizer), texts, spans)
    assert fast == slow
    assert fast[1] == [False, False, True, *[False] * 2, *[True] * 3, False]
    assert fast[2] == [3, 5, 1]


@pytest.mark.parametrize("trim", [False, True])
def test_spaces_are_trained_also_where_the_tokenizer_leaves_them_out_of_its_offsets(trim):
    """As in Llama 3's tokenizer: trim_offsets says of a token of spaces alone that it is nowhere."""
    tokenizer = in_transformers(byte_level([("Ġ", "Ġ"), ("Ġ", "a")], trim_offsets=trim))
    texts, spans = ["q: a\n   a", "q:  aé a"], [[(2, 9)], [(3, 8)]]
    fast, slow = both(*encoders(tokenizer), texts, spans)
    assert fast == slow
    pieces = tokenizer.convert_ids_to_tokens(slow[0])
    assert pieces == ["q", ":", "Ġa", "Ċ", "ĠĠ", "Ġa", *"q:", "Ġ", "Ġa", *"Ã©", "Ġa"]
    assert slow[1] == [False, False, *[True] * 4, *[False] * 3, *[True] * 4]


def test_nothing_is_encoded_to_nothing(bench):
    for encoder in (bench.encoder, Encoder(bench.tokenizer, fast=False)):
        found = encoder.encode([], [])
        assert (len(found.ids), len(found.trained), len(found.counts)) == (0, 0, 0)
        assert encoder.encode(["", "1", ""], [[], [], []]).counts.tolist() == [0, 1, 0]
        assert encoder.encode(["1"], [[(0, 1)]]).ids.dtype == np.int32
