"""The parts of a run, each measured once and kept in the run folder."""

import dataclasses
from typing import Any

import numpy as np

from experiments.drums import Config, decoding, facts, scratch, smollm2, transfer
from experiments.drums.corpora import Pieces, kept
from lab.errors import DatasetNotFoundError, require
from lab.papers import drums
from lab.report import Run

EXAMPLE_MEASURES = 6


@dataclasses.dataclass(frozen=True)
class Study:
    """What was measured, by part; parts that were left out are None."""

    systems: dict
    copying: dict
    scratch: dict
    texts: dict | None = None
    markov: dict | None = None
    codec: dict | None = None
    feel: dict | None = None
    small: dict | None = None
    transfer: dict | None = None
    pretrained: dict | None = None
    speed: dict | None = None


def measure(config: Config, run: Run, pieces: Pieces) -> Study:
    """Measures every part that the configuration asks for and the machine has data for."""
    known = ("small", "transfer", "pretrained", "speed")
    strange = set(config.parts) - set(known)
    require(not strange, f"parts are {config.parts}; accepted: {', '.join(known)}")
    parts: dict[str, Any] = {}
    if pieces.corpus is not None:
        parts["texts"] = kept(run, "texts", lambda: facts.text_facts(pieces))
        parts["feel"] = kept(run, "feel", lambda: facts.feel_facts(pieces))
        if config.grids:
            parts["codec"] = kept(run, "codec", lambda: facts.codec_facts(config, pieces))
    systems = facts.systems_of(config, pieces)
    parts["systems"] = kept(run, "systems", lambda: facts.structure_facts(systems))
    parts["copying"] = kept(run, "copying", lambda: facts.copying_facts(systems, pieces))
    parts["markov"] = kept(run, "markov", lambda: facts.markov_facts(pieces))
    parts["scratch"] = kept(run, "scratch", lambda: _scratch(config, run, pieces))
    if "small" in config.parts:
        parts["small"] = kept(run, "small", lambda: _small(config, run, pieces))
    if "transfer" in config.parts:
        parts["transfer"] = kept(run, "transfer", lambda: _transfer(config, run, pieces))
    parts |= _pretrained(config, run, pieces)
    return Study(**{name: part or None for name, part in parts.items()})


def _scratch(config: Config, run: Run, pieces: Pieces) -> dict:
    trained, _, nats = scratch.train_scratch(run, "scratch", config.scratch, pieces, config.seed)
    model, copies = trained.model(0), config.scratch.repeats
    drums.save_model(model, run.folder / "model.safetensors")
    with run.progress("compose", 2) as task:
        sweep = scratch.sweep_temperatures(
            trained, copies, pieces, config.temperatures, config.seed
        )
        task.advance(1)
        sampled = (config.samples, config.sample_bars, config.seed)
        samples = scratch.validity_of_samples(model, pieces, *sampled)
        task.advance(1)
    return {
        "num_parameters": model.num_parameters,
        "steps": trained.steps,
        "curves": trained.curves,
        "test": nats,
        "sweep": sweep,
        "samples": samples,
        "examples": _examples(model, pieces, config.seed),
    }


def _examples(model: drums.DrumModel, pieces: Pieces, seed: int) -> dict[str, str]:
    """Drumrolls of a few test prompts with what the model composed, in the grammar."""
    rows = pieces.test
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, 3).astype(int)]
    grooves = drums.compose_bars(
        drums.Composer(model),
        [row.prompt for row in chosen],
        num_bars=EXAMPLE_MEASURES,
        seeds=[seed] * len(chosen),
        candidates=8,
        temperature=0.9,
    )
    return {row.name: groove.text for row, groove in zip(chosen, grooves, strict=True)}


def _small(config: Config, run: Run, pieces: Pieces) -> dict:
    setup = config.small
    trained, labels, nats = scratch.train_scratch(
        run, "small", setup, pieces, config.seed, ablations=config.ablations
    )
    sweep = scratch.sweep_temperatures(trained, setup.repeats, pieces, (0.0, 0.9), config.seed)
    return {
        "num_parameters": trained.model(0).num_parameters,
        "labels": labels,
        "dev": trained.curves[:, -1],
        "test": nats,
        "sweep": sweep,
    }


def _transfer(config: Config, run: Run, pieces: Pieces) -> dict:
    try:
        return transfer.run_transfer(run, config.transfer, pieces, config.seed)
    except DatasetNotFoundError as error:
        return {"missing": str(error)}


def _pretrained(config: Config, run: Run, pieces: Pieces) -> dict[str, dict | None]:
    """Fine-tuning and decoding speed of the pre-trained model, nothing where it is not here."""
    setup = config.pretrained
    model = None

    def opened():
        nonlocal model
        model = model or smollm2.open_weights(setup, run.data_dir)
        return model

    def tune():
        if opened() is None:
            return {}
        return smollm2.run_pretrained(run, setup, model, pieces, config.seed)

    def time_decoding():
        return {} if opened() is None else decoding.decoding_speed(model, setup, pieces.prompts)

    measures = {"pretrained": tune, "speed": time_decoding}
    return {name: kept(run, name, f) for name, f in measures.items() if name in config.parts}
