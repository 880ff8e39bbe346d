"""Drawing tokens: filters against slow versions, frequencies, and the generating loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.nn import decoder
from lab.nn.decoder import DecoderConfig, init_params
from lab.nn.generation import NEVER, Automaton, generate
from lab.nn.sampling import draw, filtered, sampling

CONFIG = DecoderConfig(vocab_size=13, context=40, width=16, num_layers=2, num_heads=2)
IDS = np.array([[1, 2, 3], [0, 4, 5]])
MASK = np.array([[True] * 3, [False, True, True]])
keep = jax.jit(lambda logits, settings: jnp.isfinite(filtered(logits, settings)))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


LOGITS = st.lists(st.integers(-6, 6), min_size=7, max_size=7).map(lambda x: np.array(x, np.float32))


@settings(deadline=None, max_examples=60)
@given(LOGITS, st.integers(0, 9), st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_filters_keep_what_their_definitions_say(logits, top_k, top_p, min_p):
    options = {"temperature": 1.0}
    found = keep(logits[None], sampling(1, top_k=top_k, **options))[0]
    kth = np.sort(logits)[-min(top_k, 7)] if top_k else -np.inf
    assert np.array_equal(found, logits >= kth)

    found = np.asarray(keep(logits[None], sampling(1, top_p=top_p, **options))[0])
    order, mass, kept = sorted(range(7), key=lambda i: (logits[i], i)), 0.0, np.zeros(7, bool)
    chances = softmax(logits.astype(np.float64))
    near = False
    for i in order:
        mass += chances[i]
        near |= abs(mass - (1 - top_p)) < 1e-5  # rounding decides
        kept[i] = mass > 1 - top_p
    kept[order[-1]] = True
    assert near or np.array_equal(found, kept)

    found = keep(logits[None], sampling(1, min_p=min_p, **options))[0]
    wanted = chances >= min_p * chances.max()
    assert np.array_equal(found, wanted) or np.isclose(chances, min_p * chances.max()).any()


def test_repetition_makes_seen_tokens_less_likely():
    logits, seen = jnp.array([[2.0, -2.0, 1.0]]), jnp.array([[True, True, False]])
    out = filtered(logits, sampling(1, temperature=1.0, repetition=2.0), seen)
    assert out.tolist() == [[1.0, -4.0, 1.0]]


def test_tokens_come_as_often_as_they_should():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2, 1e-30]))
    rows = 20_000
    keys = jax.random.split(jax.random.key(0), rows)
    drawn = draw(keys, jnp.tile(logits, (rows, 1)), sampling(rows, temperature=1.0))
    shares = np.bincount(drawn, minlength=4) / rows
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2, 0.0], atol=0.015)
    forbidden = draw(keys, jnp.tile(logits.at[0].set(-jnp.inf), (rows, 1)), sampling(rows))
    assert 0 not in forbidden


def test_temperature_nothing_takes_the_first_of_the_likeliest():
    logits = jnp.array([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    assert draw(keys, logits, sampling(2, temperature=[0.0, 0.0])).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", -1), ("top_k", -1), ("top_p", 0.0), ("min_p", 2.0), ("repetition", 0.0)],
)
def test_settings_out_of_range_are_refused(option, value):
    with pytest.raises(InvalidInputError, match=f"{option} is"):
        sampling(2, **{option: value})


@functools.cache
def params():
    init = jax.jit(lambda key: jax.tree.map(lambda x: x * 8, init_params(CONFIG, key)))
    return init(jax.random.key(0))


@jax.jit
def logits_after(params, text, length):
    """Logits behind `length` tokens of a padded text: nothing is cached."""
    return decoder.apply(CONFIG, params, text[None])[0, length - 1]


def greedy_anew(row, number, penalty=1.0):
    """Greedy decoding that reads the whole text anew for every token."""
    text = IDS[row][MASK[row]].tolist()
    start = len(text)
    for _ in range(number):
        padded = jnp.array(text + [0] * (16 - len(text)))
        logits = np.array(logits_after(params(), padded, len(text)))
        for token in set(text):
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        text.append(int(np.argmax(logits)))
    return text[start:]


def run(**options):
    options = {"max_new_tokens": 9, "settings": sampling(2, temperature=0.0)} | options
    keys = jax.random.split(jax.random.key(1), 2)
    settings = options.pop("settings")
    return generate(CONFIG, params(), IDS, MASK, keys, settings, **options)


def test_greedy_loops_match_predicting_the_whole_text_anew_each_time():
    out = run(cache_step=4)
    assert out.tokens.tolist() == [greedy_anew(row, 9) for row in range(2)]
    assert out.lengths.tolist() == [9, 9]
    assert not out.is_finished.any()
    assert np.array_equal(run().tokens, out.tokens)


def test_rows_end_at_their_end_token():
    free = np.asarray(run().tokens)
    end = int(free[0, 2])
    out = run(end_id=jnp.int32(end), pad_id=12)
    first = int(np.argmax(free[0] == end))
    assert out.lengths[0] == first + 1
    assert out.tokens[0, : first + 1].tolist() == free[0, : first + 1].tolist()
    assert set(out.tokens[0, first + 1 :].tolist()) <= {12}
    assert out.is_finished[0]


def test_an_automaton_is_followed_to_its_end():
    # 7 or 3, then 3, then the end; 9 never.
    next_state = jnp.array([[1, 1, NEVER], [NEVER, 2, NEVER], [NEVER] * 3])
    automaton = Automaton(jnp.array([7, 3, 9]), next_state, jnp.array([False, False, True]))
    out = run(automaton=automaton, states=jnp.array([0, 1]), pad_id=12)
    assert out.tokens[0, 0] in (3, 7)
    assert out.tokens[:, 1:].tolist() == [[3] + [12] * 7, [12] * 8]
    assert out.tokens[1, 0] == 3
    assert out.lengths.tolist() == [2, 1]
    assert out.is_finished.all()


def test_a_repetition_penalty_counts_prompt_and_continuation():
    settings = sampling(2, temperature=0.0, repetition=3.0)
    out = run(settings=settings, track_seen=True)
    assert out.tokens.tolist() == [greedy_anew(row, 9, penalty=3.0) for row in range(2)]
    assert not np.array_equal(out.tokens, run().tokens)


def test_too_long_continuations_are_refused():
    with pytest.raises(InvalidInputError, match="do not fit a context of 40"):
        run(max_new_tokens=38)
