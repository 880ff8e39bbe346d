"""The grammar of a continuation as a token automaton: what it generates is a well-formed groove.

A continuation of n steps is n lines of six characters, `SEP` behind every 16th of them but the
last, and `END`. The automaton runs over characters; a token may come where all its characters may.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from lab.errors import require
from lab.nn.generation import NEVER, Automaton
from lab.papers.drums.notation import END, HIT, MEASURE, REST, SEPARATOR, WIDTH

START = 0


def grammar(
    drum_tokens: Mapping[int, str], num_steps: int | None, *, steps_per_measure: int = MEASURE
) -> Automaton:
    """Which tokens may follow so that a continuation of `num_steps` steps comes out.

    Begins in state START.

    Args:
      drum_tokens: id -> text, of a tokenizer.
      num_steps: exactly so many; None: any number of whole measures, at least one.
      steps_per_measure: lines between `SEP`s.
    Raises: InvalidInputError where the tokens cannot spell a groove.
    """
    require(num_steps is None or num_steps >= 1, f"num_steps is {num_steps}; accepted: 1 or more")
    if num_steps is None:
        arcs, final = _measure_arcs(steps_per_measure)
    else:
        arcs, final = _exact_arcs(num_steps, steps_per_measure)
    ids = sorted(drum_tokens)
    next_state = np.full((final + 1, len(ids)), NEVER, np.int32)
    for column, token in enumerate(ids):
        for state in range(final):
            next_state[state, column] = _after(arcs, state, drum_tokens[token])
    used = (next_state != NEVER).any(axis=0)
    reachable = _reachable(next_state)
    stuck = reachable & ~(next_state != NEVER).any(axis=1)
    stuck[final] = False
    require(
        bool(reachable[final]) and not stuck.any(),
        "the tokenizer's tokens cannot spell every groove: it needs the characters "
        f"{HIT!r}, {REST!r}, newline, {SEPARATOR!r} and {END!r}",
    )
    return Automaton(
        jnp.asarray(np.array(ids, np.int32)[used]),
        jnp.asarray(next_state[:, used]),
        jnp.arange(final + 1) == final,
    )


def longest(automaton: Automaton) -> int:
    """Tokens of the longest continuation that an automaton of exact length allows."""
    table = np.asarray(automaton.next_state)
    tokens = np.zeros(len(table), np.int64)
    for state in range(len(table) - 2, -1, -1):  # arcs lead to higher states only
        following = table[state][table[state] != NEVER]
        require(bool((following > state).all()), "this automaton has no longest continuation")
        tokens[state] = 1 + tokens[following].max() if len(following) else 0
    return int(tokens[START])


def _exact_arcs(num_steps: int, steps_per_measure: int) -> tuple[list[dict[str, int]], int]:
    """Arcs {character: next state} of each state; states are numbered as they are passed."""
    arcs: list[dict[str, int]] = []

    def add(characters: str) -> None:
        arcs.append(dict.fromkeys(characters, len(arcs) + 1))

    for step in range(1, num_steps + 1):
        for _ in range(WIDTH):
            add(HIT + REST)
        add("\n")
        if step == num_steps:
            for character in END:
                add(character)
        elif step % steps_per_measure == 0:
            for character in f"{SEPARATOR}\n":
                add(character)
    return arcs, len(arcs)


def _measure_arcs(steps_per_measure: int) -> tuple[list[dict[str, int]], int]:
    """One measure, then `SEP` and the next one, or `END`."""
    arcs, _ = _exact_arcs(steps_per_measure, steps_per_measure)
    behind = steps_per_measure * (WIDTH + 1)  # the state before `END`
    final = len(arcs) + len(SEPARATOR)
    states = [len(arcs) + i for i in range(len(SEPARATOR))]
    # `END`'s last arc led to the state that is now the first of `SEP`'s: send it to the end.
    arcs[-1] = {END[-1]: final}
    arcs[behind] = arcs[behind] | {SEPARATOR[0]: states[0]}
    following = [*states[1:], START]
    arcs += [{c: s} for c, s in zip(SEPARATOR[1:] + "\n", following, strict=True)]
    return arcs, final


def _after(arcs: list[dict[str, int]], state: int, text: str) -> int:
    final = len(arcs)
    for character in text:
        if state == final or character not in arcs[state]:
            return NEVER
        state = arcs[state][character]
    return state if text else NEVER


def _reachable(next_state: np.ndarray) -> np.ndarray:
    found, waiting = np.zeros(len(next_state), bool), [START]
    while waiting:
        state = waiting.pop()
        if not found[state]:
            found[state] = True
            waiting += [s for s in next_state[state].tolist() if s != NEVER]
    return found
