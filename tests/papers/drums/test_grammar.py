"""The grammar: whatever path is taken, a groove of exactly the asked steps comes out."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.nn.generation import NEVER
from lab.papers.drums.grammar import START, grammar, longest
from lab.papers.drums.library import library_rows
from lab.papers.drums.notation import drumroll_of, parse_drumroll
from lab.papers.drums.rows import make_row
from lab.papers.drums.tokenizers import CharacterTokenizer, LineTokenizer, train_bpe

LEARNED = train_bpe([row.prompt + row.completion for row in library_rows(6)], 30).tokenizer()
TOKENIZERS = {"line": LineTokenizer(), "character": CharacterTokenizer(), "bytes": LEARNED}


def walk(automaton, texts, seed, most=4000):
    """A random path to the end: (text, number of tokens)."""
    rng, text, count, state = random.Random(seed), "", 0, START
    table, final = np.asarray(automaton.next_state), np.asarray(automaton.is_final)
    tokens = np.asarray(automaton.tokens)
    while not final[state] and count < most:
        column = rng.choice(np.flatnonzero(table[state] != NEVER).tolist())
        text, state, count = text + texts[tokens[column]], table[state, column], count + 1
    return text, count


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(list(TOKENIZERS)), st.integers(1, 40), st.integers(0, 10**6))
def test_every_path_is_a_groove_of_the_asked_steps(name, steps, seed):
    texts = TOKENIZERS[name].drum_tokens()
    automaton = grammar(texts, steps)
    text, count = walk(automaton, texts, seed)
    hits, malformed = parse_drumroll(drumroll_of(text))
    assert (len(hits), malformed) == (steps, [])
    assert count <= longest(automaton)
    # It is exactly what a row's completion looks like.
    lines = drumroll_of(text).splitlines(keepends=True)
    prompt = ["o-----\n"] * 32
    row = make_row([*prompt, *lines], strip="none", min_lines=0)
    assert text == row.completion


@pytest.mark.parametrize("name", TOKENIZERS)
def test_without_a_length_a_piece_ends_after_whole_measures(name):
    texts = TOKENIZERS[name].drum_tokens()
    automaton = grammar(texts, None)
    text, _ = walk(automaton, texts, 3, most=100_000)
    hits, _ = parse_drumroll(drumroll_of(text))
    assert len(hits) > 0
    assert len(hits) % 16 == 0
    with pytest.raises(InvalidInputError, match="no longest"):
        longest(automaton)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_drummers_played_is_allowed(name):
    tokenizer = TOKENIZERS[name]
    row = library_rows(1, num_bars=6)[0]
    automaton = grammar(tokenizer.drum_tokens(), 64)
    columns = {int(t): i for i, t in enumerate(automaton.tokens)}
    state, table = START, np.asarray(automaton.next_state)
    for token in tokenizer.encode(row.completion):
        state = table[state, columns[token]]
        assert state != NEVER
    assert automaton.is_final[state]


def test_tokens_that_cannot_spell_a_groove_are_refused():
    with pytest.raises(InvalidInputError, match="cannot spell"):
        grammar({0: "-", 1: "o", 2: "\n"}, 16)
    with pytest.raises(InvalidInputError, match="num_steps is 0"):
        grammar(LineTokenizer().drum_tokens(), 0)
