"""Drums: MIDI and drumrolls, structural metrics, prompts, the expert's sheet."""

import base64
import gzip
import io
import json
import tarfile
import warnings

import mido
import pytest

from lab.errors import InvalidInputError, LabError
from lab.papers.drums.annotations import read_annotations, tally
from lab.papers.drums.clusters import exact_two_means, sklearn_two_means
from lab.papers.drums.grid import MeterError, quantise
from lab.papers.drums.midi import read_midi
from lab.papers.drums.midi_writing import write_official_midi
from lab.papers.drums.rows import make_row, strip_silence
from lab.papers.drums.structure import (
    levenshtein,
    random_pieces,
    repeated,
    stabilities,
    structure_of,
)

STEP_RULES = {"official_ranges": "official"}
MISSING_METERS = {"skip": "skip", "assume": "assume"}


def midi_to_drumroll(entry):
    config = entry.config
    assert config["time_signature_rule"] == "last"
    assert config["clip_data_bytes"]
    performance = read_midi(entry.document, tracks=config["tracks"], source=entry.file)
    meter = performance.time_signature
    result = {
        "config/ticks_per_beat": performance.ticks_per_quarter,
        "config/time_signature": None if meter is None else list(meter),
    }

    def convert():
        return quantise(
            performance,
            num_measures=config["measures"],
            steps_per_quarter=config["steps_per_quarter"],
            step_rule=STEP_RULES[config["step_rule"]],
            missing_meter=MISSING_METERS[config["missing_time_signature"]],
            strict=config["unknown_note"] == "error",
        )

    if config["expect"] == "text":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            groove = convert()
        return result | {
            "text": groove.text.encode(),
            "config/lines": len(groove.hits),
            "config/hits": int(groove.hits.sum()),
        }
    with pytest.raises(MeterError if config["expect"] == "skip" else LabError):
        convert()
    return result


def drumroll_to_midi(entry):
    assert entry.config["style"] == "official"
    return {"midi": write_official_midi(entry.document.decode())}


def text_to_midi(entry):
    assert entry.config["style"] == "official"
    if entry.config["expect"] == "error":
        with pytest.raises(InvalidInputError):
            write_official_midi(entry.arrays["text"])
        return {"config/expect": "error"}
    content = write_official_midi(entry.arrays["text"])
    tick, notes = 0, []
    for message in mido.MidiFile(file=io.BytesIO(content)).tracks[1]:
        tick += message.time
        if message.type == "note_on":
            notes.append([tick, message.note, message.velocity])
    return {
        "midi_base64": base64.b64encode(content).decode(),
        "note_on_abs_tick_note_velocity": notes,
    }


def edit_distances(entry):
    assert entry.config["unit_costs"]
    rows = entry.arrays[""]
    distances = levenshtein([(row["a"], row["b"]) for row in rows])
    return {f"{i}/d": int(distance) for i, distance in enumerate(distances)}


def stability(entry):
    config = entry.config
    sizes = {name: config[name] for name in ("steps_per_measure", "max_measures")}
    (values,) = stabilities([entry.arrays["lines"]], **sizes)
    seed = config["kmeans_seed"]
    found = {
        "stabilities": values.tolist(),
        "kmeans_exact": list(exact_two_means(values)),
        "kmeans_sklearn_n_init_10": list(sklearn_two_means(values, 10, seed)),
        "kmeans_sklearn_n_init_auto": list(sklearn_two_means(values, 1, seed)),
    }
    return {name: value for name, value in found.items() if name in entry.expected}


def split_metrics(entry):
    config = entry.config
    sizes = {name: config[name] for name in ("steps_per_measure", "max_measures")}
    values = stabilities(_pieces_of_system(entry), **sizes)
    seed, keys = config["kmeans_seed"], config["keys"]
    variants = {
        "exact": exact_two_means,
        "n_init_10": lambda v: sklearn_two_means(v, 10, seed),
        "n_init_auto": lambda v: sklearn_two_means(v, 1, seed),
    }
    found = {"stabilities": [v.tolist() for v in values]}
    for name, clustering in variants.items():
        metrics = structure_of(values, clustering)
        per_file = [list(clustering(v)) for v in values]
        found |= {f"gap_{name}": metrics.gap, f"within_{name}": metrics.within}
        found |= {"mean": metrics.mean, f"per_file_{name}": per_file}
    return {key: found[name] for name, key in keys.items() if key is not None}


def _pieces_of_system(entry):
    config, names = entry.config, entry.other("names")
    if config["generated_key"] is not None:
        generated = _generated(entry)[config["generated_key"]]
        return [generated[name].splitlines(keepends=True) for name in names]
    if config["system"] == "random":
        return random_pieces(len(names), seed=config["random_seed"])
    pattern = config["data"]["member"]
    with tarfile.open(entry.data_path(config["data"]["texts"])) as archive:
        texts = [
            archive.extractfile(pattern.replace("<name>", name)).read().decode() for name in names
        ]
    human = [text.splitlines(keepends=True) for text in texts]
    if config["system"] == "human":
        return human
    assert config["system"] == "repeat"
    return [repeated(lines) for lines in human]


def _generated(entry):
    with gzip.open(entry.other_file("generated"), "rt", encoding="utf-8") as file:
        return json.load(file)


def prompt_completion(entry):
    config, lines = entry.config, entry.arrays["lines_in"]
    stripped = strip_silence(lines, config["strip"])
    row = make_row(
        lines,
        strip=config["strip"],
        prompt_lines=config["prompt_lines"],
        min_lines=config["min_lines_exclusive"],
    )
    found = {"stripped": len(stripped) < len(lines), "kept": row is not None}
    if row is not None:
        found |= {"prompt": row.prompt, "completion": row.completion}
    return found


def expert_tally(entry):
    counted = tally(read_annotations(entry.document.decode()))
    found = {
        system: {
            "rows": counts.rows,
            "usable": counts.usable,
            "pattern": counts.pattern,
            "fills": counts.fills,
            "musical": counts.musical,
        }
        for system, counts in counted.items()
    }
    return {"config/expected": found}


KINDS = {
    "midi_to_drumroll": midi_to_drumroll,
    "drumroll_to_midi": drumroll_to_midi,
    "text_to_midi": text_to_midi,
    "levenshtein": edit_distances,
    "stability": stability,
    "split_metrics": split_metrics,
    "prompt_completion": prompt_completion,
    "expert_tally": expert_tally,
}
