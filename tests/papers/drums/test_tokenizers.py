"""Tokenizers: round trips, bad ids, and BPE against a slow version."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.papers.drums.library import library_rows
from lab.papers.drums.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    LineTokenizer,
    byte_characters,
    gpt2_tokenizer,
    tokenizer_of_gguf,
    train_bpe,
)

ROW = library_rows(1)[0]
LEARNED = train_bpe([row.prompt + row.completion for row in library_rows(6)], 30)


@pytest.mark.parametrize(
    "tokenizer",
    [LineTokenizer(), CharacterTokenizer(), LEARNED.tokenizer()],
    ids=["line", "character", "bytes"],
)
def test_drum_texts_come_back(tokenizer):
    ids = tokenizer.encode(ROW.prompt) + tokenizer.encode(ROW.completion)
    assert tokenizer.decode(ids) == ROW.prompt + ROW.completion
    assert 0 <= min(ids) <= max(ids) < tokenizer.vocab_size
    spelled = tokenizer.drum_tokens()
    assert "".join(spelled[i] for i in ids) == ROW.prompt + ROW.completion
    assert tokenizer.pad_id not in spelled
    with pytest.raises(InvalidInputError, match="outside 0"):
        tokenizer.decode([tokenizer.vocab_size])


def test_a_line_is_the_number_of_its_state():
    tokenizer = LineTokenizer()
    assert tokenizer.encode("o-----\n-----o\n--oo--\r\nSEP\nEND") == [32, 1, 12, 64, 65]
    with pytest.raises(InvalidInputError, match="no line of a drumroll"):
        tokenizer.encode("o----\n")
    with pytest.raises(InvalidInputError, match="occur in no drum text"):
        CharacterTokenizer().encode("x")


@given(st.text(max_size=40))
@settings(max_examples=60)
def test_byte_tokens_hold_any_text(text):
    tokenizer = LEARNED.tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def slow_bpe(words, num_merges):
    """Merges by counting everything anew each time."""
    words, merges = [(list(word), n) for word, n in words.items()], []
    for new in range(256, 256 + num_merges):
        counts = Counter()
        for word, n in words:
            for pair in itertools.pairwise(word):
                counts[pair] += n
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        merges.append((*best, counts[best]))
        for word, _ in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [new]
                i += 1
    return merges


@given(st.lists(st.text(alphabet="ab-o ", max_size=30), max_size=8))
@settings(max_examples=40, deadline=None)
def test_learned_merges_are_those_of_counting_everything_anew(texts):
    import tokenizers

    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    back = {c: b for b, c in enumerate(byte_characters())}
    words = Counter(piece for text in texts for piece, _ in cut(text))
    words = {tuple(back[c] for c in piece): n for piece, n in words.items()}
    assert list(train_bpe(texts, 12).merges) == slow_bpe(words, 12)


def test_byte_characters_are_a_bijection_onto_printables():
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert characters[ord("A")] == "A"
    assert characters[0] == chr(256)
    assert characters[173] == chr(256 + 67)
    assert all(c.isprintable() and not c.isspace() for c in characters)


def test_gpt2_keeps_its_end_of_text_whole():
    tokenizer = gpt2_tokenizer([("-", "-"), ("--", "--")])
    assert tokenizer.vocab_size == 259
    assert tokenizer.encode("----<|endoftext|>") == [257, 258]
    assert tokenizer.pad_id == 258


GGUF = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<c>", "-", "o", "--"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1],
    "tokenizer.ggml.merges": ["- -"],
}


def test_a_tokenizer_is_read_from_metadata():
    tokenizer = tokenizer_of_gguf(GGUF)
    assert tokenizer.encode("--o<c>") == [3, 2, 0]
    assert tokenizer.drum_tokens() == {1: "-", 2: "o", 3: "--"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer 'llama'"),
        ({"tokenizer.ggml.pre": "qwen2"}, "pre-tokenizer 'qwen2'"),
        ({"tokenizer.ggml.token_type": [1]}, "4 tokens .* and 1 token types"),
        ({"tokenizer.ggml.tokens": ["-", "-", "o", "--"]}, "3 distinct"),
        ({"tokenizer.ggml.merges": ["x y"]}, "contradict"),
    ],
)
def test_metadata_that_describes_no_tokenizer_is_refused(change, message):
    with pytest.raises(InvalidInputError, match=message):
        tokenizer_of_gguf(GGUF | change)
    missing = {key: value for key, value in GGUF.items() if key not in change}
    if "tokenizer.ggml.pre" not in change:
        with pytest.raises(InvalidInputError, match="missing"):
            tokenizer_of_gguf(missing)


def test_merges_outside_the_vocabulary_are_refused():
    with pytest.raises(InvalidInputError, match="contradict"):
        ByteTokenizer({"a": 0}, [("a", "b")])
