"""From the parts of a run to its result: tables, pictures, notes, claims."""

import functools

import jax
import numpy as np

from experiments.drums import SUMMARY, TITLE, Config, pictures, smollm2
from experiments.drums.claims import TEMPERATURE, all_claims
from experiments.drums.corpora import Pieces, load_pieces
from experiments.drums.study import EXAMPLE_MEASURES, Study, measure
from lab.files import write_atomically
from lab.nn.decoder import GPT2_SMALL, SMOLLM2_135M, init_params, num_parameters
from lab.papers import drums
from lab.papers.drums.annotations import PATTERNS
from lab.report import Claim, Measurement, Result, Run, Table

PARAMETERS = {"GPT-2 small": (GPT2_SMALL, 124_439_808), "SmolLM2": (SMOLLM2_135M, 134_515_008)}
# What is tuned of SmolLM2, in the words of tables and pictures.
COMPOSING = {
    "untuned": "pre-trained, not tuned",
    "pretrained": "pre-trained, tuned",
    "random": "random weights, tuned",
}
METRICS = (
    ("mean", "mean stability"),
    ("gap", "gap"),
    ("within", "within"),
    ("to_previous", "= previous"),
    ("to_prompt", "= prompt"),
    ("new_share", "new"),
    ("validity", "valid"),
    ("measures", "measures"),
    ("onset_f1", "onset F1"),
    ("diversity", "diversity"),
)


def study_result(config: Config, run: Run) -> Result:
    """Runs the study, or checks the full-size models where only an accelerator can run them."""
    if config.shapes_only and jax.default_backend() == "cpu":
        return shapes_result(config, run)
    pieces = load_pieces(config, run)
    study = measure(config, run, pieces)
    _write_examples(run, study)
    return Result(
        TITLE,
        SUMMARY,
        claims=all_claims(config, study),
        tables=all_tables(study, config.annotations),
        figures=figures_of(run, study, pieces),
        notes=notes_of(config, study),
    )


def _write_examples(run: Run, study: Study) -> None:
    """MIDI, sound and text of the example grooves, in the run folder."""
    for name, text in study.scratch["examples"].items():
        hits, _ = drums.parse_drumroll(text)
        groove = drums.humanise(drums.Groove(hits, bpm=100.0))
        base = run.folder / "grooves" / name
        write_atomically(base.with_suffix(".mid"), drums.write_midi(groove))
        write_atomically(base.with_suffix(".wav"), drums.wav_bytes(drums.render(groove)))
        write_atomically(base.with_suffix(".txt"), text)


def all_tables(study: Study, sheet: str | None = None) -> list[Table]:
    """All tables; `sheet` is the expert's, if there is one."""
    tables = [_systems_table(study), _sweep_table(study)]
    if study.small is not None:
        tables.append(_ablation_table(study.small))
    if study.transfer and "kinds" in study.transfer:
        tables.append(_transfer_table(study.transfer))
    if study.pretrained:
        tables.append(_pretrained_table(study.pretrained))
    if study.codec:
        tables += _codec_tables(study)
    if study.speed:
        tables.append(_speed_table(study.speed))
    if sheet is not None:
        tables.append(_annotation_table(sheet))
    return tables


def _annotation_table(sheet: str) -> Table:
    counts = drums.tally(drums.read_annotations(sheet))
    rows = [
        [system, own.usable, *(own.pattern.get(p, 0) for p in PATTERNS), own.fills, own.musical]
        for system, own in counts.items()
    ]
    note = "Blank counts as no; in the human sheet yes and no are marked, in the others yes alone."
    return Table(
        "The expert's sheet", ["system", "usable", *PATTERNS, "fills", "musical"], rows, note
    )


def _systems_table(study: Study) -> Table:
    variants = ("exact", "n_init=10", "n_init=1")
    columns = [
        "system",
        "mean",
        "zeros",
        *(f"{x}, {v}" for v in variants for x in ("gap", "within")),
    ]
    rows = [
        [name, s["mean"], s["zero_share"], *(x for variant in variants for x in s[variant])]
        for name, s in study.systems.items()
    ]
    note = "Stability in character edits; two clusters a piece, exact and as scikit-learn's KMeans."
    return Table("Structure of systems without a model", columns, rows, note)


def _sweep_table(study: Study) -> Table:
    rows = []
    for temperature, copies in study.scratch["sweep"].items():
        cells = [Measurement.of([row[key] for row in copies]) for key, _ in METRICS]
        rows.append([f"random start, T = {temperature}", *cells])
    if study.markov is not None:
        order = study.markov["order"]
        rows.append([f"counted lines, order {order}", *(study.markov[key] for key, _ in METRICS)])
    for system, copied in study.copying.items():
        structure = study.systems[system]
        known = {
            "to_previous": copied["to_previous"],
            "to_prompt": copied["to_prompt"],
            "new_share": copied["generated_vs_train"],
            "validity": copied["validity"],
            "mean": structure["mean"],
            "gap": structure["exact"][0],
            "within": structure["exact"][1],
        }
        rows.append([system, *(known.get(key) for key, _ in METRICS)])
    nats = Measurement.of(study.scratch["test"])
    markov = "" if study.markov is None else f", counted lines {study.markov['test']:.3f}"
    note = (
        f"{study.scratch['num_parameters']:,} parameters, a token a line, from random weights; "
        f"test nats a line {nats}{markov}. Spread over seeds."
    )
    return Table(
        "Compositions on the test prompts", ["system", *(h for _, h in METRICS)], rows, note
    )


def _ablation_table(small: dict) -> Table:
    rows, labels = [], list(dict.fromkeys(small["labels"]))
    for label in labels:
        chosen = [i for i, own in enumerate(small["labels"]) if own == label]
        cells = [Measurement.of([small[key][i] for i in chosen]) for key in ("dev", "test")]
        rows.append([label, *cells])
    note = f"{small['num_parameters']:,} parameters, the same steps for all; nats a line."
    return Table("A smaller model and ablations", ["copy", "dev", "test"], rows, note)


def _transfer_table(transfer: dict) -> Table:
    rows, curves = [], []
    for kind in ("english", "random"):
        chosen = [i for i, own in enumerate(transfer["kinds"]) if own == kind]
        curve = np.array(transfer["curves"])[chosen]
        for temperature in transfer["metrics"][0]:
            picked = [transfer["metrics"][i][temperature] for i in chosen]
            metrics = [
                Measurement.of([row[key] for row in picked])
                for key in ("to_previous", "to_prompt", "new_share", "onset_f1", "mean")
            ]
            test = Measurement.of([transfer["test"][i] for i in chosen])
            rows.append([f"{kind}, T = {temperature}", test, *metrics])
        curves.append(f"{kind} {', '.join(f'{nats:.2f}' for nats in curve.mean(axis=0))}")
    columns = ["start", "test nats", "= previous", "= prompt", "new", "onset F1", "mean stability"]
    note = (
        f"{transfer['num_parameters']:,} parameters, {transfer['vocabulary']} byte-level tokens, "
        f"windows of four measures; two measures composed in the grammar. After English and before "
        f"any drums: {transfer['untuned']:.2f} nats a line. Dev nats after each quarter of the "
        f"tuning: {'; '.join(curves)}."
    )
    return Table("A small model pre-trained on English", columns, rows, note)


def _pretrained_table(found: dict) -> Table:
    rows = []
    names = {"pretrained": "pre-trained", "random": "random weights", "lora": "adapters (LoRA)"}
    for kind in found["before"]:
        before, after = (Measurement.of(found[when][kind]) for when in ("before", "after"))
        rows.append([names[kind], before, after, *[None] * 6])
    keys = ("to_previous", "to_prompt", "new_share", "onset_f1", "mean")
    for kind, copies in found["composed"].items():
        free = [copy["free"] for copy in copies if "free" in copy]
        for temperature in copies[0]["metrics"]:
            picked = [copy["metrics"][temperature] for copy in copies]
            cells = [Measurement.of([row[key] for row in picked]) for key in keys]
            name = f"composed, {COMPOSING[kind]}, T = {temperature}"
            rows.append([name, None, None, *cells, Measurement.of(free) if free else None])
    columns = [
        "SmolLM2-135M",
        "nats before",
        "nats after",
        "= previous",
        "= prompt",
        "new",
        "onset F1",
        "mean stability",
        "valid, free",
    ]
    note = (
        f"{found['steps']} steps each; nats a line of held-out texts. Composed in the grammar; "
        "valid, free: well-formed lines at temperature 0.9 without it."
    )
    return Table("SmolLM2 on drums", columns, rows, note)


def _codec_tables(study: Study) -> list[Table]:
    columns = [
        "steps a quarter",
        "kept hits %",
        "onset ms",
        "95 %",
        "with offsets ms",
        "velocity at 100",
        "three levels",
    ]
    rows = [
        [
            row["steps_per_quarter"],
            100 * row["kept_share"],
            row["onset_ms"],
            row["onset_ms_95"],
            row["timing_ms"],
            row["velocity_error"],
            row["level_error"],
        ]
        for row in study.codec["grids"]
    ]
    hits = study.codec["grids"][0]["num_hits"]
    note = f"All {hits:,} hits of the six drums of the data set; velocities in MIDI units."
    tokens = [[name, value] for name, value in study.codec["tokens_per_bar"].items()]
    feel = [[name, *values] for name, values in study.feel.items()]
    return [
        Table("What a grid loses", columns, rows, note),
        Table(
            "Tokens a bar of 4/4",
            ["notation", "tokens"],
            tokens,
            "Counted by the rules of the notations.",
        ),
        Table("Humanising: mean error on test", ["feel", "velocity", "steps late"], feel),
    ]


def _speed_table(speed: dict) -> Table:
    rates = speed["tokens_per_second"]
    first = rates[next(iter(rates))]
    rows = [[f"batch {size}", rate, rate / first] for size, rate in rates.items()]
    parts = [
        f"{dtype} {size / 1e6:.0f} MB of weights a token, {1000 * seconds:.1f} ms"
        for (dtype, size), seconds in zip(
            speed["bytes_per_token"].items(), speed["seconds_per_token"].values(), strict=True
        )
    ]
    note = (
        f"bfloat16, prefill included. One prompt without it: {'; '.join(parts)}. This machine "
        f"reads {speed['bandwidth'] / 1e9:.1f} GB/s."
    )
    return Table("Decoding SmolLM2", ["", "tokens/s", "against batch 1"], rows, note)


def figures_of(run: Run, study: Study, pieces: Pieces) -> list:
    grooves = {
        name: drums.parse_drumroll(text)[0] for name, text in study.scratch["examples"].items()
    }
    assert all(len(hits) == EXAMPLE_MEASURES * 16 for hits in grooves.values())
    sweep = study.scratch["sweep"]
    lines = {name: s["stabilities"] for name, s in study.systems.items()}
    if TEMPERATURE in sweep:
        lines["model"] = sweep[TEMPERATURE][0]["stabilities"]
    found = [
        pictures.piano_roll(run, "piano_roll", grooves, prompt_steps=32),
        pictures.stability_lines(run, lines),
    ]
    if study.pretrained:
        composed = study.pretrained["composed"].items()
        rolls = {COMPOSING[kind]: copies[0]["example"] for kind, copies in composed}
        rolls = {name: drums.parse_drumroll(text)[0] for name, text in rolls.items()}
        found.insert(1, pictures.piano_roll(run, "piano_roll_smollm2", rolls, prompt_steps=32))
    if len(sweep) > 2:
        human = study.copying["human"] | {"mean": study.systems["human"]["mean"]}
        found.append(pictures.temperature_lines(run, sweep, human))
    steps, curves = study.scratch["steps"], np.array(study.scratch["curves"])
    found.append(
        pictures.training_lines(run, "scratch", steps, {"from random weights": curves}, "step")
    )
    if study.transfer and "kinds" in study.transfer:
        series = {
            name: np.array(study.transfer["curves"])[
                [own == kind for own in study.transfer["kinds"]]
            ]
            for kind, name in (("english", "after English"), ("random", "from random weights"))
        }
        found.append(
            pictures.training_lines(run, "transfer", study.transfer["steps"], series, "step")
        )
    histograms = {name: row["histogram_train"] for name, row in study.copying.items()}
    if TEMPERATURE in sweep:
        histograms["model"] = sweep[TEMPERATURE][0]["histogram_train"]
    found.append(pictures.occurrence_bars(run, histograms, "training"))
    if study.codec:
        found.append(pictures.codec_lines(run, study.codec["grids"]))
    if study.speed:
        found.append(pictures.speed_bars(run, study.speed))
    return found


def notes_of(config: Config, study: Study) -> list[str]:
    notes = [
        f"{len(study.scratch['examples'])} grooves as MIDI, WAV and text are in the run's folder "
        "`grooves`; the model is in `model.safetensors`: `python -m experiments.drums generate`.",
    ]
    if config.corpus == "library":
        notes.append("Here `human` stands for the pieces of our own library, not for drummers.")
    if study.transfer and "missing" in study.transfer:
        notes.append(f"No small transfer experiment: {study.transfer['missing']}")
    if "pretrained" in config.parts and not study.pretrained:
        notes.append("SmolLM2 is not here: python -m experiments data --fetch smollm2")
    return notes


def shapes_result(config: Config, run: Run) -> Result:
    """Counts parameters of the full-size models by shape and takes a step at reduced width."""
    claims = []
    for name, (decoder, expected) in PARAMETERS.items():
        key = jax.random.key(0)
        jax.eval_shape(functools.partial(init_params, decoder), key)
        claims.append(
            Claim(
                f"shape-{name.split()[0]}",
                f"parameters of {name}",
                expected,
                num_parameters(decoder),
                lambda m, expected=expected: m.mean == expected,
            )
        )
    with run.progress("one step at reduced width", 1) as task:
        step = smollm2.one_reduced_step(config.seed)
        task.advance(1, loss=step["first"])
    claims.append(
        Claim(
            "step",
            "a packed step in bfloat16 with recomputation lowers the loss",
            "",
            step["first"] - step["second"],
            lambda m: m.mean > 0,
        )
    )
    claims += [
        Claim(id, statement, paper, None)
        for id, statement, paper in (
            ("C2", "structure of the tuned model lies between repeat and random", "3.04 to 3.45"),
            ("C3", "pre-trained lower than random weights in test nats a line", "claimed"),
            ("C5", "most composed measures are new", "0.81 to 0.87"),
            ("C6", "the larger model is better", "29 against 18 consistent"),
        )
    ]
    notes = ["No accelerator here: the full fine-tuning was checked by shape only."]
    return Result(TITLE, SUMMARY, claims=claims, notes=notes)
