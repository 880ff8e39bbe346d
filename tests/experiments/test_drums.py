"""The experiment at toy size: parts are kept, claims computed, verbs write what they say."""

import dataclasses
import json
import wave

import jax
import numpy as np
import pytest

from experiments import command, drums
from experiments.drums import Scratch, Texts, Transfer, scratch
from experiments.drums.corpora import chosen_files, load_pieces
from experiments.drums.decoding import bytes_per_token, decoding_speed
from experiments.drums.transfer import english_rows
from lab.errors import InvalidInputError
from lab.nn.decoder import DecoderConfig, init_params
from lab.papers import drums as library
from lab.report import VERDICTS, Run
from tests.papers.drums.midi_files import midi_bytes
from tests.papers.drums.test_corpus import FILES

TINY = dataclasses.replace(
    drums.PRESETS["quick"],
    library_pieces=16,
    scratch=Scratch(width=16, num_layers=1, num_heads=2, epochs=2, repeats=2, warmup_steps=1),
    samples=20,
    sample_bars=4,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.open(tmp_path_factory.mktemp("runs"), "drums", "quick", "tiny", TINY)
    return run, run.finish(drums.main(TINY, run))


def test_every_claim_of_the_paper_has_a_row(finished):
    _, result = finished
    ids = {claim.id.split("-")[0] for claim in result.claims}
    assert ids == {f"C{n}" for n in range(1, 7)} | {"P1", "P2"}
    assert all(claim.verdict in VERDICTS for claim in result.claims)
    by_id = {claim.id: claim for claim in result.claims}
    assert by_id["P1"].verdict == "holds"
    assert by_id["P1"].measured.mean == 100
    assert by_id["C1-texts"].verdict == "not tested at this scale"
    assert by_id["C4"].measured is None


def test_the_run_folder_holds_pictures_grooves_and_a_model(finished):
    run, result = finished
    assert len(result.figures) == 4
    assert all((run.folder / figure.path).stat().st_size > 5000 for figure in result.figures)
    for path in sorted(run.folder.glob("grooves/*.mid")):
        performance = library.read_midi(path)
        assert performance.num_ticks == 6 * 4 * 480
        with wave.open(str(path.with_suffix(".wav"))) as sound:
            assert sound.getnframes() / sound.getframerate() == pytest.approx(6 * 2.4, abs=0.01)
    assert library.open_model(run.folder / "model.safetensors").config.width == 16


def test_a_resumed_run_measures_nothing_again(finished):
    run, result = finished
    parts = sorted(run.checkpoints.glob("*.json"))
    before = [path.stat().st_mtime_ns for path in parts]
    again = Run.open(run.folder.parents[1], "drums", "quick", "tiny", TINY, resume=True)
    second = drums.main(TINY, again)
    assert [path.stat().st_mtime_ns for path in parts] == before
    assert [c.measured for c in second.claims] == [c.measured for c in result.claims]


def test_training_resumes_to_the_very_same_model(finished, tmp_path):
    from lab.train import Checkpoints

    run, _ = finished
    weights = (run.folder / "model.safetensors").read_bytes()
    pieces = load_pieces(TINY, run)
    other = Run.open(tmp_path, "drums", "quick", "tiny", TINY)
    plan = scratch.scratch_plan("scratch", TINY.scratch, pieces.rows["train"])
    save = Checkpoints.save

    class Killed(Exception):
        pass

    def save_and_die(self, step, *args, **options):
        save(self, step, *args, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            scratch.train_scratch(other, "scratch", TINY.scratch, pieces, 0)
    assert Checkpoints(other.checkpoints / "scratch").latest() == plan.eval_every
    trained, _, _ = scratch.train_scratch(other, "scratch", TINY.scratch, pieces, 0)
    path = library.save_model(trained.model(0), tmp_path / "model.safetensors")
    assert path.read_bytes() == weights


def run_verb(*args):
    return command.paper_main("drums", [str(a) for a in args])


def test_generate_writes_exactly_the_asked_bars(finished, tmp_path, capsys):
    run, _ = finished
    notes = [(i * 240, (36, 42, 38, 42)[i % 4], 90) for i in range(40)]
    prompt = tmp_path / "mine.mid"
    prompt.write_bytes(midi_bytes(notes, tempo=600000))
    model = run.folder / "model.safetensors"
    code = run_verb(
        "generate", "--prompt", prompt, "--bars", 5, "--seed", 3, "--weights", model, "--humanise",
        "--out", tmp_path / "out", "--count", 2, "--dtype", "float32",
    )  # fmt: skip
    assert code == 0
    shown = capsys.readouterr().out
    assert "2 x 5 bars of 4/4" in shown
    for number in (1, 2):
        performance = library.read_midi(tmp_path / f"out-{number}.mid")
        assert performance.num_ticks == 5 * 4 * 480
        assert performance.bpm == pytest.approx(100)
        given = library.quantise(library.read_midi(prompt), num_measures=None).hits[:32]
        text = (tmp_path / f"out-{number}.txt").read_text()
        assert text.startswith(library.Groove(given).text)
        with wave.open(str(tmp_path / f"out-{number}.wav")) as sound:
            assert sound.getnframes() == 5 * 4 * 44100 * 60 // 100


def test_generate_finds_the_newest_model_and_says_what_is_missing(finished, tmp_path, capsys):
    run, _ = finished
    runs = run.folder.parents[1]
    base = ["generate", "--style", "samba", "--bars", 4, "--out", tmp_path / "g", "--runs-dir"]
    assert run_verb(*base, runs, "--bpm", 92, "--dtype", "float32") == 0
    assert str(run.folder / "model.safetensors") in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_CACHE_DIR", str(tmp_path))
        patch.delenv("LAB_DATA_DIR", raising=False)
        assert run_verb(*base, tmp_path) == 2
    assert "--fetch smollm2" in capsys.readouterr().err
    for wrong in (["--bars", 2], ["--style", "polka"], ["--meter", "6/8"], ["--prompt", "no.mid"]):
        assert run_verb(*base, runs, *wrong) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert message.count("\n") == 1


def test_midi_to_drumroll_and_back(tmp_path, capsys):
    midi = tmp_path / "a.mid"
    midi.write_bytes(midi_bytes([(0, 36, 100), (480, 38, 30)]))
    assert run_verb("midi2drumroll", midi, "--measures", 1) == 0
    text = capsys.readouterr().out
    assert text.split() == ["---o--", *["------"] * 3, "--o---", *["------"] * 11]
    assert run_verb("midi2drumroll", midi, "--loudness", "--measures", 1) == 0
    assert capsys.readouterr().out.split()[4] == "--.---"
    assert run_verb("midi2drumroll", midi, "--show", "--measures", 0) == 0
    assert "kick |o---" in capsys.readouterr().out
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert run_verb("drumroll2midi", path, "--bpm", 92, "--wav", "--out", tmp_path / "b.mid") == 0
    assert library.read_midi(tmp_path / "b.mid").notes.tolist() == [36, 38]
    assert (tmp_path / "b.wav").stat().st_size > 44100
    assert run_verb("drumroll2midi", path, "--official", "--out", tmp_path / "c.mid") == 0
    assert (tmp_path / "c.mid").read_bytes() == library.write_official_midi(text)
    path.write_text("o--\n")
    assert run_verb("drumroll2midi", path) == 2
    assert "malformed" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="repaired"):
        assert run_verb("drumroll2midi", path, "--malformed", "repair") == 0


def test_options_choose_the_files_of_a_run(tmp_path):
    train, fill, evaluation = FILES[:3]
    chosen = {f.name: f for f in chosen_files(Texts(fills=True, held_out_drummer=1), FILES)}
    assert chosen[fill.name].split == chosen[train.name].split == "test"
    assert evaluation.name not in chosen
    head = "drummer,session,style,bpm,beat_type,time_signature,split,midi_filename\n"
    rows = [f"drummer{n},drummer{n}/session1,rock,90,beat,4-4,train,{n}.mid\n" for n in (1, 9)]
    (tmp_path / "e-gmd.csv").write_text(head + "".join(rows))
    for n in (1, 9):
        (tmp_path / f"{n}.mid").write_bytes(train.midi)
    more = chosen_files(Texts(extra=tmp_path, held_out_drummer=1), FILES)
    assert [f.name for f in more if f.path in ("1.mid", "9.mid")] == ["9_9"]


@pytest.mark.parametrize(("kind", "size"), [("line", 67), ("character", 9), ("bytes", 257 + 8)])
def test_models_from_random_weights_take_any_tokenizer(kind, size):
    setup = dataclasses.replace(TINY.scratch, tokenizer=kind, num_merges=8)
    plan = scratch.scratch_plan("any", setup, library.library_rows(8))
    assert plan.config.vocab_size == plan.tokenizer.vocab_size == size
    rows = library.library_rows(21, num_bars=16)
    longest = max(len(plan.tokenizer.encode(r.prompt + r.completion)) for r in rows)
    assert longest <= plan.config.context


def test_grooves_in_files_are_scored(tmp_path, capsys):
    rock = library.groove("rock", 4)
    bars = [rock.hits[i : i + 16] for i in (0, 0, 0, 32)]
    own = tmp_path / "mine"
    own.mkdir()
    for name, order in (("a", (0, 1, 2)), ("b", (0, 2, 3))):
        groove = library.Groove(np.concatenate([bars[i] for i in order]))
        (own / f"{name}.txt").write_text(groove.text)
        (own / f"{name}.mid").write_bytes(library.write_midi(groove))
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "b.mid").write_bytes((own / "b.mid").read_bytes())
    out = tmp_path / "scores.json"
    paths = (own, "--reference", tmp_path / "known", "--out", out)
    assert run_verb("score", *paths) == 0
    assert "| mine | 2 | " in capsys.readouterr().out
    found = json.loads(out.read_text())["mine"]
    assert found["stabilities"] == [[0], [0]]
    assert (found["to_previous"], found["to_prompt"]) == (0.5, 0.5)
    assert (found["new_share"], found["validity"]) == (0.0, 1.0)
    assert run_verb("score", tmp_path / "nowhere") == 2
    assert "holds no drumroll texts" in capsys.readouterr().err
    out.write_text("[1]")
    assert run_verb("score", out) == 2


def test_unknown_parts_and_corpora_are_refused(tmp_path):
    run = Run.open(tmp_path, "drums", "quick", "wrong", TINY)
    with pytest.raises(InvalidInputError, match="corpus is 'maestro'"):
        drums.main(dataclasses.replace(TINY, corpus="maestro"), run)
    with pytest.raises(InvalidInputError, match="parts are"):
        drums.main(dataclasses.replace(TINY, parts=("large",)), run)


def test_the_full_size_models_have_the_published_sizes(tmp_path):
    config = drums.PRESETS["paper"]
    run = Run.open(tmp_path, "drums", "paper", "shapes", config)
    result = run.finish(drums.main(config, run))
    verdicts = {claim.id: claim.verdict for claim in result.claims}
    assert verdicts["shape-GPT-2"] == verdicts["shape-SmolLM2"] == verdicts["step"] == "holds"
    assert verdicts["C3"] == "not tested at this scale"


def test_english_rows_are_whole_and_every_token_but_the_first_is_a_target():
    tokenizer = library.CharacterTokenizer("abc ")
    rows = english_rows({"x": "abc " * 40, "y": "cba " * 40}, tokenizer, 6, 8)
    assert rows["ids"].shape == (6, 8)
    assert rows["completion"].sum(axis=1).tolist() == [7] * 6
    assert not rows["prompt"].any()
    assert rows["lines"].tolist() == [7] * 6


def test_annotations_are_tallied_when_given(finished, tmp_path):
    sheet = tmp_path / "sheet.csv"
    head = "system,name,pattern,fill,measures_if_short,musical\n"
    sheet.write_text(head + "davinci,a,consistent,x,,\ndavinci,b,excluded,,,\n")
    from experiments.drums.claims import _annotations

    claim = _annotations(dataclasses.replace(TINY, annotations=str(sheet)))
    assert claim.measured.mean == 1
    assert claim.verdict == "fails"


@pytest.mark.slow
def test_speed_counts_tokens_bytes_and_programs():
    config = DecoderConfig(vocab_size=67, context=352, width=16, num_layers=1, num_heads=2)
    model = library.DrumModel(
        config, init_params(config, jax.random.key(0)), library.LineTokenizer()
    )
    prompts = [row.prompt for row in library.library_rows(3)]
    setup = dataclasses.replace(drums.Pretrained(), batches=(1, 2), speed_tokens=8)
    found = decoding_speed(model, setup, prompts)
    assert set(found["tokens_per_second"]) == {"1", "2"}
    assert found["new_programs"] == 0
    composer = library.Composer(model, dtype="bfloat16")
    blocks = 16 * 48 + 48 + 16 * 16 + 16 + 16 * 64 + 64 + 64 * 16 + 16 + 4 * 16
    assert found["bytes_per_token"]["float32"] == 2 * found["bytes_per_token"]["bfloat16"]
    assert all(share > 0 for share in found["bandwidth_share"].values())
    assert bytes_per_token(composer, composer.automaton(64)) == 2 * (blocks + 66 * 16)
    assert found["bandwidth"] > 1e8


def test_results_are_plain_json(finished):
    run, _ = finished
    saved = json.loads(run.result_path.read_text())
    assert saved["paper"] == "drums"
    assert np.isfinite([c["measured"]["mean"] for c in saved["claims"] if c["measured"]]).all()


@pytest.mark.slow
def test_small_transfer_runs_from_english_to_drums(finished, tmp_path, monkeypatch):
    import lab.data
    from experiments.drums import transfer

    run, _ = finished
    texts = {"x": "the quick brown fox jumps over the lazy dog. " * 200}
    load = lambda name, **options: texts  # noqa: E731
    monkeypatch.setattr(lab.data, "load", load)
    setup = Transfer(
        num_merges=20, width=16, num_layers=1, num_heads=2, pretrain_steps=2, pretrain_batch=2,
        pretrain_length=32, tune_steps=2, batch_size=2, repeats=1,
    )  # fmt: skip
    pieces = load_pieces(TINY, run)
    other = Run.open(tmp_path, "drums", "quick", "transfer", TINY)
    found = transfer.run_transfer(other, setup, pieces, 0)
    assert found["kinds"] == ["english", "random"]
    assert np.isfinite(found["test"]).all()
    assert found["metrics"][0]["0.7"]["validity"] == 1.0
    assert found["metrics"][0]["0.7"]["measures"] == 4.0


@pytest.mark.slow
def test_a_pretrained_llama_is_tuned_in_three_ways(finished, tmp_path):
    from experiments.drums import smollm2

    run, _ = finished
    pieces = load_pieces(TINY, run)
    texts = [row.prompt + row.completion for row in pieces.rows["train"]]
    tokenizer = library.train_bpe(texts, 30).tokenizer()
    config = DecoderConfig(
        architecture="llama",
        vocab_size=tokenizer.vocab_size,
        context=1024,
        width=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        ffn_width=16,
    )
    model = library.DrumModel(config, init_params(config, jax.random.key(0)), tokenizer)
    setup = dataclasses.replace(
        drums.Pretrained(), steps=3, eval_rows=2, num_measures=1, learning_rate=1e-2
    )
    other = Run.open(tmp_path, "drums", "quick", "tuned", TINY)
    found = smollm2.run_pretrained(other, setup, model, pieces, 0)
    assert set(found["after"]) == {"pretrained", "random", "lora"}
    assert found["after"]["pretrained"][0] < found["before"]["pretrained"][0]
    assert set(found["composed"]) == {"untuned", "pretrained", "random"}
    composed = found["composed"]["pretrained"][0]
    assert composed["metrics"]["0.9"]["measures"] == 3.0
    assert 0 <= composed["free"] <= 1
    assert composed["example"].count("\n") == 48
    saved = library.open_model(other.folder / "smollm2-drums.safetensors")
    assert saved.config.architecture == "llama"
    arrays, _ = smollm2._texts(dataclasses.replace(setup, whole_pieces=True), model, pieces)
    assert len(arrays["ids"]) <= len(pieces.rows["train"])
