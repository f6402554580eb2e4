"""tiktoken's core on a tokenizer's vocabulary: the tokenizer's ids, or a reason why not."""

from __future__ import annotations

import pickle
import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from ftlab.data.tokens.encoder import PROBE_EVERY, Encoder, FastPathMismatch
from ftlab.data.tokens.tiktoken_core import PATTERNS, FastCore, FastPath, fast_core
from tests.data.byte_tokenizers import MULTI_BYTE, QWEN2, byte_level, ids, in_transformers, nfc
from tests.data.test_real_data import FOLDER

STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def core_of(tokenizer) -> FastCore:
    core = fast_core(tokenizer)
    assert isinstance(core, FastCore), core
    return core


def fast_ids(core, text):
    return core.ids[core.encode(text)].tolist()


def refusal(tokenizer: Tokenizer) -> str:
    found = fast_core(in_transformers(tokenizer))
    assert isinstance(found, str), "the fast path takes it"
    return found


@pytest.fixture(scope="module")
def sources():
    """Python files of the standard library, 3 MB."""
    found, size = [], 0
    for path in sorted(STANDARD_LIBRARY.glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        found.append(text)
        size += len(text)
        if size > 3_000_000:
            break
    assert size > 2_000_000
    return found


def trained(sources, pattern, normalizer=None):
    """A vocabulary of 3,000 tokens, as the pattern cuts the sources."""
    tokenizer = byte_level(pattern=pattern, normalizer=normalizer, added=())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=3000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text[:4000] for text in sources[:60]] + ["漢字かな 😀 é ß " * 20], trainer)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|end|>", "<|im_end|>")])
    return in_transformers(tokenizer)


@pytest.fixture(scope="module", params=sorted(PATTERNS), ids=lambda pattern: pattern[:25])
def of_pattern(request, sources):
    return trained(sources, request.param)


# --- the same ids ----------------------------------------------------------------------------------------------------


def test_the_patterns_are_the_published_ones():
    """GPT-2's from its encoder.py; Llama 3's, Qwen 2's, o200k's and Tekken's from their tokenizer.json or tiktoken."""
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    suffix = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    o200k = TEKKEN.replace("+|[^", f"+{suffix}|[^").replace("*|\\p{N}", f"*{suffix}|\\p{{N}}{{1,3}}")
    assert {gpt2, QWEN2, QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|"), TEKKEN, o200k} == PATTERNS


texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
                  st.lists(st.sampled_from(MULTI_BYTE), max_size=30).map("".join))  # fmt: skip


def test_ids_of_any_unicode_text_under_every_known_pattern(of_pattern):
    path = FastPath(core_of(of_pattern), of_pattern)

    @settings(max_examples=80, deadline=None)
    @given(texts)
    def check(text):
        if path.supports(text):
            assert fast_ids(path.core, text) == ids(of_pattern, text)

    check()
    taken = [text for text in ("漢字 é😀 don't THIS'LL", "123456 İ", "a\u0301\u0327") if path.supports(text)]
    assert len(taken) == 3, "the fast path is for more than ASCII"


def test_ids_of_the_standard_library_under_every_known_pattern(of_pattern, sources):
    encoder = Encoder(of_pattern)
    chosen = random.Random(0).sample(sources, 12)
    assert len({letter for text in chosen for letter in text}) > 90
    found = encoder.encode(chosen, [[]] * len(chosen))
    assert encoder.engine == "tiktoken's core"
    theirs = [ids(of_pattern, text) for text in chosen]
    assert found.counts.tolist() == [len(one) for one in theirs]
    assert found.ids.tolist() == [id_ for one in theirs for id_ in one]


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real data: {FOLDER} is not there")
@pytest.mark.parametrize("name", ["dpo_zh_demo.json", "c4_demo.jsonl", "glaive_toolcall_en_demo.json"])
def test_ids_of_real_data(bench, name):
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    found = bench.encoder.encode(lines, [[]] * len(lines))
    theirs = bench.tokenizer(lines, add_special_tokens=False)["input_ids"]
    assert found.ids.tolist() == [id_ for one in theirs for id_ in one]


def test_the_tiny_models_tokenizer_takes_the_fast_path(bench):
    assert bench.encoder.engine == "tiktoken's core"
    core = core_of(bench.tokenizer)
    assert core.ids.dtype == np.int32 and core.widths.sum() > 2000


def test_added_tokens_within_text(bench):
    texts = ["<|im_end|>", "a<|im_end|>b", "<|im_end|><|im_end|>", " <|im_end|> ", "<|im_end|",
             "<|im_end|>\n\n<|im_start|>user", "é<|im_end|>漢", "<<|im_end|>>", "<|im_<|im_end|>"]  # fmt: skip
    core = core_of(bench.tokenizer)
    expected = {text: ids(bench.tokenizer, text) for text in texts}
    assert {text: fast_ids(core, text) for text in texts} == expected
    whole = bench.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert {text: expected[text].count(whole) for text in texts} == {text: text.count("<|im_end|>") for text in texts}


def test_a_million_blanks_fall_back_to_the_tokenizer(bench):
    text = "a" + " " * 1_000_000 + "b"
    with pytest.raises(ValueError):
        core_of(bench.tokenizer).encode(text)
    rows = ["before é", text, "after <|im_end|>"]
    spans = [[(0, 3)], [(0, 1)], []]
    found = Encoder(bench.tokenizer).encode(rows, spans)
    expected = Encoder(bench.tokenizer, fast=False).encode(rows, spans)
    assert found.counts[1] > 1000
    for name in ("ids", "trained", "counts"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert found.trained.sum() == expected.trained.sum() > 1


# --- what a normalizer does ------------------------------------------------------------------------------------------

COMPOSED = ["e", "\u0301", "é", "\u0327", "a", " ", "가", "\u1100\u1161", "Å", "\u212b", "<|end|>", "漢"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(COMPOSED), max_size=12).map("".join))
def test_ids_where_the_tokenizer_composes_characters(text):
    tokenizer, encoder = COMPOSING
    assert encoder.engine == "tiktoken's core"
    found = encoder.encode([text], [[(0, len(text))]] if text else [[]])
    assert found.ids.tolist() == ids(tokenizer, text)
    assert found.trained.all()


COMPOSING = (lambda tokenizer: (tokenizer, Encoder(tokenizer)))(in_transformers(nfc(merges=[("Ã", "©")])))


def test_what_is_not_composed_yet_is_left_to_the_tokenizer():
    tokenizer, _ = COMPOSING
    path = FastPath(core_of(tokenizer), tokenizer)
    assert path.supports("\u00e9") and not path.supports("e\u0301")
    assert ids(tokenizer, "e\u0301") == ids(tokenizer, "\u00e9") != fast_ids(path.core, "e\u0301")


# --- what is refused, and why ----------------------------------------------------------------------------------------


def token(content, **options):
    return AddedToken(content, **{"special": True, "normalized": False, **options})


def split_by_words(behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(QWEN2), behavior, invert)


def without_byte(tokenizer):
    config = tokenizer.to_str()
    return Tokenizer.from_str(config.replace('"!":', '"!!":', 1))


AB, BC = ("a", "b"), ("b", "c")
REFUSED = {
    "another pattern": (
        byte_level(pattern=r"\w+|\s+"),
        "its pre-tokenizer is none of those that tiktoken is known to reproduce",
    ),
    "another normalizer": (byte_level(normalizer=normalizers.Lowercase()), "its normalizer is Lowercase"),
    "normalizers in a row": (
        byte_level(normalizer=normalizers.Sequence([normalizers.NFC()])),
        "its normalizer is Sequence",
    ),
    "a token that takes the space before it": (
        byte_level(added=[token("<|end|>", lstrip=True)]),
        "its token '<|end|>' takes in the space around it",
    ),
    "a token that takes the space after it": (
        byte_level(added=[token("<|end|>", rstrip=True)]),
        "its token '<|end|>' takes in the space around it",
    ),
    "a token that is a word": (
        byte_level(added=[token("end", single_word=True)]),
        "its token 'end' takes in the space around it",
    ),
    "a token that begins another": (
        byte_level(added=["<|end|>", "<|e"]),
        "its token '<|e' is the beginning of '<|end|>'",
    ),
    "tokens that overlap": (
        byte_level(added=[token("<|end|>"), token("|>x", normalized=True)]),
        "its tokens '<|end|>' and '|>x' overlap",
    ),
    "dropout": (byte_level([AB], dropout=0.1), "it is no plain byte-level BPE"),
    "byte fallback": (byte_level([AB], byte_fallback=True), "it is no plain byte-level BPE"),
    "an unknown token": (byte_level([AB], unk_token="a"), "it is no plain byte-level BPE"),
    "merges out of order": (
        byte_level([("ab", "c"), AB], more=["ab"]),
        "its merge of 'ab' and 'c' joins what no earlier merge makes",
    ),
    "merges of one token apart": (
        byte_level([AB, BC, ("ab", "c"), ("c", "a"), ("a", "bc")]),
        "its merges that make 'abc' stand apart",
    ),
    "a token that no merge makes": (byte_level([AB], more=["xyz"]), "no merge makes 1 of its tokens, such as 'xyz'"),
    "a token that its merges never reach": (
        byte_level([BC, AB, ("ab", "c")]),
        "its merges never make the token 'abc', which tiktoken would",
    ),
    "a byte without a token": (without_byte(byte_level()), "1 of the 256 bytes have no token"),
}


def test_a_structure_that_tiktoken_does_not_reproduce_is_refused(subtests):
    for name, (tokenizer, reason) in REFUSED.items():
        with subtests.test(name):
            assert refusal(tokenizer) == reason
            assert Encoder(in_transformers(tokenizer)).engine == f"tokenizers: {reason}"


def other_cuts():
    return [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence([split_by_words(), pre_tokenizers.ByteLevel(True, False)]),
        pre_tokenizers.Sequence([split_by_words("removed"), pre_tokenizers.ByteLevel(False, False)]),
        pre_tokenizers.Sequence([split_by_words(invert=True), pre_tokenizers.ByteLevel(False, False)]),
        pre_tokenizers.Sequence([split_by_words(), pre_tokenizers.ByteLevel(False, True)]),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(False, True)]),
        split_by_words(),
        pre_tokenizers.Metaspace(),
        None,
    ]


def test_another_way_to_cut_words_is_refused(subtests):
    for number, pre_tokenizer in enumerate(other_cuts()):
        tokenizer = byte_level([AB])
        if pre_tokenizer is None:
            tokenizer = Tokenizer(tokenizer.model)
            tokenizer.add_special_tokens(["<|end|>"])
        else:
            tokenizer.pre_tokenizer = pre_tokenizer
        with subtests.test(f"{number}: {pre_tokenizer}"):
            assert refusal(tokenizer) == "its pre-tokenizer is none of those that tiktoken is known to reproduce"


def test_the_plain_byte_level_of_gpt2_is_taken():
    tokenizer = byte_level([AB])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    assert fast_ids(core_of(in_transformers(tokenizer)), "ab 12") == ids(in_transformers(tokenizer), "ab 12")


def test_other_models_and_tokenizers_in_python_are_refused():
    words = Tokenizer(models.WordLevel({"a": 0, "<|end|>": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert refusal(words) == "it is no plain byte-level BPE"
    assert fast_core(object()) == "it is written in Python"


@pytest.mark.parametrize(
    ("which", "text", "theirs", "tiktokens"),
    [
        ("a token that its merges never reach", "abc", ["a", "bc"], ["abc"]),
        ("a token that no merge makes", "xyz", ["x", "y", "z"], ["xyz"]),
    ],
)
def test_tiktoken_would_really_find_other_ids(which, text, theirs, tiktokens):
    """The refusal is no mere caution: on the vocabulary that it refuses, tiktoken's core says something else."""
    import tiktoken
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokenizer = in_transformers(REFUSED[which][0])
    vocab = {token: id_ for token, id_ in tokenizer.get_vocab().items() if token != "<|end|>"}
    byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    ranks = {bytes(byte_of[letter] for letter in token): id_ for token, id_ in vocab.items()}
    encoding = tiktoken.Encoding("this test's", pat_str=QWEN2, mergeable_ranks=ranks, special_tokens={})
    assert tokenizer.tokenize(text) == theirs
    assert tokenizer.convert_ids_to_tokens(encoding.encode_ordinary(text)) == tiktokens


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_vocabulary_whose_words_are_looked_up_whole(ignore_merges):
    """Llama 3's: what is in the vocabulary is a token without any merge. Where merges make it all, that is the same."""
    tokenizer = in_transformers(byte_level([AB, ("ab", "c"), BC], ignore_merges=ignore_merges))
    core = core_of(tokenizer)
    for text in ("abc", "bc abc cab", "abcbc"):
        assert fast_ids(core, text) == ids(tokenizer, text)


def test_an_added_token_that_reads_as_the_bytes_of_something_else():
    """``Ġb`` is how byte-level vocabularies write a space and b; as an added token it stands for those two letters."""
    tokenizer = byte_level([AB], more=["Ġb"], added=["<|end|>", "Ġb"], ignore_merges=True)
    assert ids(in_transformers(tokenizer), "a b")[1] == tokenizer.token_to_id("Ġb")
    assert refusal(tokenizer) == "its added token 'Ġb' is also how its vocabulary writes other text"
    # Where words are not looked up whole, nothing but those two letters gives it.
    tokenizer = in_transformers(byte_level([AB], more=["Ġb"], added=["<|end|>", "Ġb"]))
    for text in ("a b", "aĠb", " b"):
        assert fast_ids(core_of(tokenizer), text) == ids(tokenizer, text)


# --- probes ----------------------------------------------------------------------------------------------------------


def test_a_character_that_the_engines_read_differently_is_left_to_the_tokenizer():
    """The probe is of every character that comes up, once."""
    asked = []

    class Asked(FastPath):
        def matches_tokenizer(self, texts):
            asked.append(texts[0])
            return texts[0] != "漢" and super().matches_tokenizer(texts)

    tokenizer = in_transformers(byte_level())
    path = Asked(core_of(tokenizer), tokenizer)
    taken = [path.supports(text) for text in ("é", "é é", "漢é", "ascii", "字", "漢")]
    assert taken == [True, True, False, True, True, False]
    assert sorted(asked) == sorted(["é", "漢", "字"])


def test_the_probe_finds_a_letter_that_only_one_engine_takes_for_one():
    """Real disagreement: ``é`` is a token of the tokenizer, and not of the core."""
    tokenizer = in_transformers(byte_level([("Ã", "©")]))
    path = FastPath(core_of(in_transformers(byte_level())), tokenizer)
    assert not path.supports("é") and path.supports("漢")


def test_what_a_tokenizer_became_after_the_core_was_built_is_found_by_the_probe():
    tokenizer = in_transformers(byte_level([AB]))
    encoder = Encoder(tokenizer)
    assert encoder.encode(["ab"], [[]]).ids.tolist() == ids(tokenizer, "ab")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    some = PROBE_EVERY - 1
    assert encoder.encode(["ab"] * some, [[]] * some).ids.tolist() == ids(tokenizer, "ab") * some
    with pytest.raises(FastPathMismatch, match=r"^AB$") as caught:
        encoder.encode(["AB"], [[]])
    assert str(pickle.loads(pickle.dumps(caught.value))) == "AB", "it comes across from another process"
