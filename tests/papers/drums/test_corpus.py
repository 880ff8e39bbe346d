"""The corpus: names, splits, what is skipped; on the real data the paper's own numbers."""

import dataclasses

import numpy as np
import pytest

import lab.data
from lab.data.groove import GrooveFile, read_drum_texts
from lab.papers.drums.copying import copying, identity_shares
from lab.papers.drums.corpus import held_out_drummer, papers_files, read_corpus
from lab.papers.drums.rows import read_rows
from lab.papers.drums.statistics import hit_density, num_states
from lab.papers.drums.structure import structure
from tests.papers.drums.midi_files import midi_bytes

HITS = [(i * 480, 36, 100) for i in range(64)]


def file_of(drummer, number, *, kind="beat", session="session1", split="train", meter=(4, 4)):
    stem = f"{number}_rock_100_{kind}_{meter[0]}-{meter[1]}"
    return GrooveFile(
        path=f"drummer{drummer}/{session}/{stem}.mid",
        drummer=drummer,
        session=session,
        style="rock",
        bpm=100.0,
        kind=kind,
        time_signature=f"{meter[0]}-{meter[1]}",
        split=split,
        midi=midi_bytes(HITS, meter=meter),
    )


FILES = [
    file_of(1, 1),
    file_of(1, 2, kind="fill"),
    file_of(2, 3, session="eval_session"),
    file_of(2, 4, split="validation"),
    file_of(3, 5, split="test", meter=(6, 8)),
    file_of(3, 6, split="test"),
]


def test_beats_of_the_sessions_are_converted_and_other_meters_skipped():
    chosen = papers_files(FILES)
    assert [f.name for f in chosen] == [
        "1_1_rock_100_beat_4-4",
        "2_4_rock_100_beat_4-4",
        "3_5_rock_100_beat_6-8",
        "3_6_rock_100_beat_4-4",
    ]
    with_fills = papers_files(FILES, fills=True)
    assert [f.name for f in with_fills if f not in chosen] == ["1_2_rock_100_fill_4-4"]
    corpus = read_corpus(chosen)
    assert corpus.num_files == 4
    assert corpus.skipped == ("3_5_rock_100_beat_6-8",)
    assert {split: list(texts) for split, texts in corpus.texts.items()} == {
        "train": ["1_1_rock_100_beat_4-4"],
        "dev": ["2_4_rock_100_beat_4-4"],
        "test": ["3_6_rock_100_beat_4-4"],
    }
    assert [len(lines) for lines in corpus.lines("test")] == [256]
    assert corpus.rows["train"][0].name == "1_1_rock_100_beat_4-4"
    whole = read_corpus(FILES, official=False, strip="measure", trim=True)
    assert len(whole.texts["train"]) == 3


def test_one_drummer_can_be_held_out():
    moved = held_out_drummer(FILES, 1)
    assert {f.split for f in moved if f.drummer == 1} == {"test"}
    assert {f.split for f in moved if f.drummer == 2} == {"train", "validation"}
    assert {f.split for f in moved if f.drummer == 3} == {"validation"}
    assert [dataclasses.replace(f, split="x") for f in moved] == [
        dataclasses.replace(f, split="x") for f in FILES
    ]


@pytest.fixture(scope="module")
def real(require_dataset):
    require_dataset("groove")
    return read_corpus(papers_files(lab.data.load("groove")))


@pytest.mark.real_data
def test_the_released_texts_and_rows_come_out_byte_for_byte(real, require_dataset):
    released = read_drum_texts(require_dataset("groove"))
    assert real.num_files == 463
    assert real.texts == released.texts
    assert {split: len(texts) for split, texts in real.texts.items()} == {
        "train": 373,
        "dev": 47,
        "test": 37,
    }
    for split, text in released.rows.items():
        theirs = {row.name: row for row in read_rows(text)}
        assert {row.name: row for row in real.rows[split]} == theirs
    assert [len(real.rows[split]) for split in ("train", "dev", "test")] == [372, 47, 37]


@pytest.mark.real_data
def test_the_drummers_own_numbers(real):
    human, train = real.lines("test"), real.lines("train")
    metrics = structure(human)
    assert metrics.mean == pytest.approx(5.0792, abs=5e-5)
    assert metrics.zero_share == pytest.approx(0.303, abs=5e-4)
    vs_train = copying(human, train)
    assert (vs_train.num_measures, round(vs_train.new_share, 3)) == (467, 0.797)
    generated = copying(human, train, generated_only=True)
    assert (generated.num_measures, round(generated.new_share, 3)) == (398, 0.809)
    vs_test = copying(human, human)
    assert vs_test.new_share == 0
    assert vs_test.histogram()[0] == 350
    assert np.round(identity_shares(human), 3).tolist() == [0.261, 0.154]
    grids = [groove.hits for groove in real.grooves.values()]
    assert sum(map(len, grids)) == 116_736
    assert num_states(grids) == 44
    density = [0.0091, 0.0806, 0.2309, 0.1734, 0.2397, 0.0509]
    np.testing.assert_allclose(hit_density(grids), density, atol=5e-5)
