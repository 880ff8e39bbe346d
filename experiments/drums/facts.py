"""What needs no model: the texts (C1), structure of the baselines (C2), copying (C5), the codec."""

import gzip
import json
from pathlib import Path

import numpy as np

from experiments.drums import Config
from experiments.drums.corpora import Pieces, lines_of_row
from lab.data.groove import read_drum_texts
from lab.errors import CorruptFileError, DatasetNotFoundError
from lab.papers import drums
from lab.papers.drums import statistics
from lab.papers.drums.copying import copying
from lab.papers.drums.feel import feel_errors
from lab.papers.drums.structure import stabilities, structure_of

CLUSTERINGS = {
    "exact": drums.exact_two_means,
    "n_init=10": lambda values: drums.sklearn_two_means(values, 10),
    "n_init=1": lambda values: drums.sklearn_two_means(values, 1),
}


def text_facts(pieces: Pieces) -> dict:
    """How many texts and rows equal the released ones; counts, densities and states."""
    corpus = pieces.corpus
    found = {
        "num_files": corpus.num_files,
        "skipped": list(corpus.skipped),
        "texts": {split: len(texts) for split, texts in corpus.texts.items()},
        "rows": {split: len(rows) for split, rows in corpus.rows.items()},
    }
    grids = [groove.hits for groove in corpus.grooves.values()]
    found["density"] = drums.hit_density(grids)
    found["num_states"] = statistics.num_states(grids)
    try:
        released = read_drum_texts(pieces.place)
    except DatasetNotFoundError:
        return found | {"identical_texts": None, "identical_rows": None}
    found["identical_texts"] = sum(
        corpus.texts[split].get(name) == text
        for split, texts in released.texts.items()
        for name, text in texts.items()
    )
    ours = {(split, row.name): row for split, rows in corpus.rows.items() for row in rows}
    found["identical_rows"] = sum(
        ours.get((split, row.name)) == row
        for split, text in released.rows.items()
        for row in drums.read_rows(text, split)
    )
    return found


def systems_of(config: Config, pieces: Pieces) -> dict[str, list[list[str]]]:
    """The test pieces of every system that needs no model here."""
    human = pieces.lines["test"]
    systems = {
        "human": human,
        "random": drums.random_pieces(len(human)),
        "repeat": [drums.repeated(lines) for lines in human],
    }
    if config.released_outputs is not None:
        systems |= read_outputs(config.released_outputs)
    return systems


def read_outputs(path: str | Path) -> dict[str, list[list[str]]]:
    """Lines of the texts in a JSON file of {system: {name: text}}, in the order of names.

    Raises: CorruptFileError.
    """
    opener = gzip.open if Path(path).suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            texts = json.load(file)
        return {
            system: [by_name[name].splitlines(keepends=True) for name in sorted(by_name)]
            for system, by_name in texts.items()
        }
    except (OSError, ValueError, AttributeError) as error:
        raise CorruptFileError(f"{path} holds no {{system: {{name: text}}}}: {error}") from error


def structure_facts(systems: dict[str, list[list[str]]]) -> dict:
    """Mean stability, share of zeros, and the clusters in three variants, of each system."""
    found = {}
    for name, lines in systems.items():
        values = stabilities(lines)
        row = {"stabilities": [v.tolist() for v in values]}
        for variant, clustering in CLUSTERINGS.items():
            metrics = structure_of(values, clustering)
            row[variant] = [metrics.gap, metrics.within]
        row |= {"mean": metrics.mean, "zero_share": metrics.zero_share}
        found[name] = row
    return found


def copying_facts(systems: dict[str, list[list[str]]], pieces: Pieces) -> dict:
    """Copying from the training and the test texts, repeats within pieces, and validity."""
    found = {}
    for name, lines in systems.items():
        if name in ("random", "repeat"):
            continue
        row = {}
        for reference in ("train", "test"):
            counts = copying(lines, pieces.lines[reference])
            row[f"vs_{reference}"] = counts.new_share
            row[f"histogram_{reference}"] = counts.histogram()
        row["num_measures"] = counts.num_measures
        generated = copying(lines, pieces.lines["train"], generated_only=True)
        row["generated_vs_train"] = generated.new_share
        row["to_previous"], row["to_prompt"] = drums.identity_shares(lines)
        row["validity"] = drums.validity(lines, skip_lines=32)
        found[name] = row
    return found


def codec_facts(config: Config, pieces: Pieces) -> dict:
    """Errors of the round trip of every file of the data set on several grids."""
    performances = [drums.read_midi(f.midi, source=f.path) for f in pieces.files]
    rows = [vars(drums.round_trip(performances, grid)) for grid in config.grids]
    return {"grids": rows, "tokens_per_bar": drums.tokens_per_bar(performances)}


def feel_facts(pieces: Pieces) -> dict:
    """Errors of velocity and timing on test, of a plain feel and of one measured on train."""
    grooves, texts = pieces.corpus.grooves, pieces.corpus.texts
    train, test = ([grooves[name] for name in texts[split]] for split in ("train", "test"))
    errors = {
        "plain": feel_errors(drums.plain_feel(), test),
        "measured": feel_errors(drums.measured_feel(train), test),
    }
    return {name: list(values) for name, values in errors.items()}


def markov_facts(pieces: Pieces) -> dict:
    """Nats a line of counted line models on test, and compositions of the best order on dev."""
    train = pieces.rows["train"]
    models = {order: drums.fit_lines(train, order) for order in (1, 2, 3, 4)}
    dev = {order: model.nats_per_line(pieces.rows["dev"]) for order, model in models.items()}
    best = min(dev, key=dev.get)
    model = models[best]
    composed = [
        drums.drumroll_of(model.compose(row.prompt, seed=i)).splitlines(keepends=True)
        for i, row in enumerate(pieces.test)
    ]
    return {
        "order": best,
        "dev": dev[best],
        "test": model.nats_per_line(pieces.test),
        **piece_metrics(composed, pieces),
    }


def piece_metrics(composed: list[list[str]], pieces: Pieces) -> dict:
    """All metrics of the compositions of one system on the test prompts, in the order of names."""
    metrics = drums.structure(composed)
    to_previous, to_prompt = drums.identity_shares(composed)
    grids = [drums.parse_drumroll("".join(lines), "repair")[0] for lines in composed]
    played = [drums.parse_drumroll("".join(lines_of), "repair")[0] for lines_of in _human(pieces)]
    pairs = zip(grids, played, strict=True)
    return {
        "mean": metrics.mean,
        "gap": metrics.gap,
        "within": metrics.within,
        "zero_share": metrics.zero_share,
        "to_previous": to_previous,
        "to_prompt": to_prompt,
        "validity": drums.validity(composed, skip_lines=32),
        "new_share": copying(composed, pieces.lines["train"], generated_only=True).new_share,
        "measures": float(np.mean([statistics.num_measures(lines) for lines in composed])),
        "onset_f1": _mean([drums.onset_f1(a[32:], b[32:]) for a, b in pairs]),
        "diversity": _mean([drums.pattern_distance(grid) for grid in grids]),
        "stabilities": [values.tolist() for values in metrics.stabilities],
        "histogram_train": copying(composed, pieces.lines["train"]).histogram(),
    }


def _mean(values: list[float]) -> float:
    """The mean of the pieces for which the measure exists."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _human(pieces: Pieces) -> list[list[str]]:
    """What the drummers played on from the prompts: the rows' own texts."""
    return [lines_of_row(row) for row in pieces.test]
