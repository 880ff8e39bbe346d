"""Composing: exact bars, determinism, one program, models to files and back."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from lab.errors import CorruptFileError, InvalidInputError
from lab.interop import save_safetensors
from lab.nn.decoder import DecoderConfig, init_params
from lab.nn.generation import generate
from lab.papers.drums.composing import Composer, compose_bars, num_silent, prompt_of_groove
from lab.papers.drums.grid import Groove
from lab.papers.drums.library import groove, library_rows
from lab.papers.drums.model_files import DrumModel, open_model, save_model
from lab.papers.drums.notation import parse_drumroll
from lab.papers.drums.tokenizers import CharacterTokenizer, LineTokenizer, train_bpe

ROWS = library_rows(3)
PROMPTS = [row.prompt for row in ROWS]
LEARNED = train_bpe([row.prompt + row.completion for row in ROWS], 30).tokenizer()


def model_of(tokenizer, seed=0, **sizes):
    sizes = {"width": 16, "num_layers": 1, "num_heads": 2, "context": 512} | sizes
    config = DecoderConfig(vocab_size=tokenizer.vocab_size, **sizes)
    return DrumModel(config, init_params(config, jax.random.key(seed)), tokenizer)


@functools.cache
def line_composer():
    return Composer(model_of(LineTokenizer()))


@pytest.mark.parametrize("meter", [(4, 4), (3, 4), (5, 4)])
def test_grooves_have_exactly_the_asked_bars(meter):
    grooves = compose_bars(
        line_composer(), PROMPTS, num_bars=4, meter=meter, bpm=92, temperature=1.5
    )
    for prompt, made in zip(PROMPTS, grooves, strict=True):
        assert len(made.hits) == 4 * made.steps_per_bar
        given = parse_drumroll(prompt)[0]
        assert np.array_equal(made.hits[:32], given)
        assert made.meter == meter
    with pytest.raises(InvalidInputError, match="ask for more bars"):
        compose_bars(line_composer(), PROMPTS, num_bars=2)
    with pytest.raises(InvalidInputError, match="accepted: x/4"):
        compose_bars(line_composer(), PROMPTS, num_bars=8, meter=(6, 8))
    behind = compose_bars(line_composer(), PROMPTS, num_bars=1, with_prompt=False)
    assert len(behind[0].hits) == 16


def test_of_several_candidates_the_least_silent_is_taken():
    options = {"num_bars": 4, "temperature": 3.0, "top_k": 2}
    alone = [
        compose_bars(
            line_composer(), PROMPTS, seeds=[s + 1_000_003 * turn for s in (1, 2, 3)], **options
        )
        for turn in range(2)
    ]
    chosen = compose_bars(line_composer(), PROMPTS, seeds=[1, 2, 3], candidates=2, **options)
    for i, made in enumerate(chosen):
        silent = [num_silent(grooves[i].hits[32:]) for grooves in alone]
        wanted = alone[int(silent[1] < silent[0])][i]
        assert np.array_equal(made.hits, wanted.hits)
    quiet = np.zeros((40, 6), bool)
    quiet[3, 2] = True
    assert num_silent(quiet) == 2
    with pytest.raises(InvalidInputError, match="candidates must be at least 1"):
        compose_bars(line_composer(), PROMPTS, num_bars=4, candidates=0)


def test_byte_tokens_compose_in_the_grammar_too():
    found = Composer(model_of(LEARNED), cache_step=128).compose(
        PROMPTS, num_steps=16, temperature=1.5, seeds=5
    )
    for composition in found:
        hits, malformed = parse_drumroll(composition.text)
        assert composition.is_finished
        assert (len(hits), malformed) == (48, [])


def test_the_same_seed_gives_the_same_groove_in_any_batch():
    seeds = [3, 4, 5]
    together = line_composer().compose(PROMPTS, num_steps=16, seeds=seeds, temperature=1.0)
    again = line_composer().compose(PROMPTS, num_steps=16, seeds=seeds, temperature=1.0)
    alone = line_composer().compose(PROMPTS[1:2], num_steps=16, seeds=[4], temperature=1.0)
    other = line_composer().compose(PROMPTS, num_steps=16, seeds=[6, 7, 8], temperature=1.0)
    assert together == again
    assert alone[0].text == together[1].text
    assert together != other
    with pytest.raises(InvalidInputError, match="2 seeds for 3 prompts"):
        line_composer().compose(PROMPTS, num_steps=16, seeds=[1, 2])


def test_other_settings_and_weights_compile_nothing_anew():
    line_composer().compose(PROMPTS, num_steps=16, temperature=0.5)
    programs = generate._cache_size()
    options = {"top_k": 5, "top_p": 0.9, "min_p": 0.01}
    line_composer().compose(PROMPTS, num_steps=16, temperature=[0.0, 1.0, 2.0], seeds=9, **options)
    Composer(model_of(LineTokenizer(), seed=1)).compose(PROMPTS, num_steps=16)
    assert generate._cache_size() == programs


def test_a_piece_that_does_not_end_loses_its_partial_line():
    tokenizer = CharacterTokenizer()
    composer = Composer(model_of(tokenizer))
    (found,) = composer.compose(PROMPTS[:1], constrained=False, max_new_tokens=20, temperature=0.0)
    assert found.num_tokens <= 20
    assert found.drumroll.endswith("\n")
    assert found.drumroll.startswith(PROMPTS[0].replace("SEP\n", ""))
    with pytest.raises(InvalidInputError, match="only the grammar can count"):
        composer.compose(PROMPTS, constrained=False, num_steps=16)
    with pytest.raises(InvalidInputError, match="no prompts"):
        composer.compose([])


def test_prompts_are_checked_and_normalised():
    crlf = PROMPTS[0].replace("\n", "\r\n")
    wanted = line_composer().compose([PROMPTS[0]] * 3, num_steps=16, seeds=1)
    assert line_composer().compose([crlf] * 3, num_steps=16, seeds=1) == wanted
    with pytest.raises(InvalidInputError, match="whole measures of 16 lines, got 33"):
        line_composer().compose([PROMPTS[0] + "o-----\n"], num_steps=16)
    with pytest.raises(InvalidInputError, match="'play rock' is no line"):
        line_composer().compose(["play rock"], num_steps=16)


def test_a_context_that_is_too_short_is_told_before_compiling():
    short = Composer(model_of(LineTokenizer(), context=64))
    with pytest.raises(InvalidInputError, match="do not fit a context of 64"):
        short.compose(PROMPTS, num_steps=64)


def test_the_prompt_of_a_groove_begins_where_it_sounds():
    rock = groove("rock", 4)
    late = Groove(np.concatenate([np.zeros((16, 6), bool), rock.hits]))
    assert prompt_of_groove(late) == prompt_of_groove(rock)
    silence = np.zeros((16, 6), bool)
    gaps = [rock.hits[16:32], silence, rock.hits[:32]]
    assert prompt_of_groove(Groove(np.concatenate(gaps))) == prompt_of_groove(rock)
    apart = [rock.hits[:16], silence, rock.hits[16:32]]
    assert prompt_of_groove(Groove(np.concatenate(apart))) == prompt_of_groove(rock)
    with pytest.raises(InvalidInputError, match="a prompt needs 2 measures"):
        prompt_of_groove(Groove(rock.hits[:16]))
    with pytest.raises(InvalidInputError, match="a prompt needs 2 measures"):
        prompt_of_groove(Groove(np.zeros((64, 6), bool)))


@pytest.mark.parametrize(
    "tokenizer",
    [LineTokenizer(), CharacterTokenizer(), LEARNED],
    ids=["line", "character", "bytes"],
)
def test_models_survive_their_file(tokenizer, tmp_path):
    model = model_of(tokenizer)
    back = open_model(save_model(model, tmp_path / "sub" / "model.safetensors"))
    assert back.config == model.config
    assert back.tokenizer.encode(PROMPTS[0]) == tokenizer.encode(PROMPTS[0])
    for a, b in zip(jax.tree.leaves(back.params), jax.tree.leaves(model.params), strict=True):
        assert np.array_equal(a, b)


def test_files_that_describe_no_model_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_safetensors(path, {"a": np.zeros(2)})
    with pytest.raises(CorruptFileError, match="not written by save_model"):
        open_model(path)
    save_safetensors(path, {"a": np.zeros(2)}, metadata={"tenfold": json.dumps({"config": {}})})
    with pytest.raises(CorruptFileError, match="describes its model wrongly"):
        open_model(path)


def test_tokenizer_and_model_must_belong_together():
    model = model_of(LineTokenizer())
    with pytest.raises(InvalidInputError, match="do not belong together"):
        dataclasses.replace(model, tokenizer=LEARNED)
