"""Language models as drummers: grooves written as text and continued.

    python -m experiments.drums                       # our own groove library, about a minute
    python -m experiments.drums bench                 # the Groove data; SmolLM2 where it is fetched
    python -m experiments.drums generate --prompt some.mid --bars 8 --bpm 92 --seed 3
    python -m experiments.drums midi2drumroll some.mid
    python -m experiments.drums drumroll2midi some.txt --bpm 92
    python -m experiments.drums score folder_of_grooves other_folder

The science is in `lab.papers.drums`; here are presets, the order of things, claims and pictures.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.drums.verbs import VERBS as VERBS

TITLE = "Language models as drummers"
SUMMARY = (
    "Writes drum grooves as text, lets a language model continue two given bars, and turns the "
    "answer into MIDI and sound."
)
NEEDS = {"bench": ("groove",), "paper": ("groove", "smollm2")}


@dataclasses.dataclass(frozen=True)
class Texts:
    """How performances become texts, prompts and completions."""

    official: bool = False
    """Read files as the released script does: the first track, its ranges of ticks."""
    strip: Literal["first_quarter", "measure", "none"] = "first_quarter"
    """Of the silence before the first hit drop measures whose first quarter (the released script),
    or all of which is silent, or nothing."""
    trim: bool = False
    """Leave out the silent measures at the end."""
    fills: bool = False
    """Train on the fills of the sessions too."""
    extra: Path | None = None
    """Train on the performances of a further folder or archive too, of Groove's layout (E-GMD)."""
    held_out_drummer: int | None = None
    """Test on this drummer, who is then left out of the training, not on the data set's split."""


@dataclasses.dataclass(frozen=True)
class Scratch:
    """Models trained from random weights on whole pieces."""

    tokenizer: Literal["line", "character", "bytes"] = "line"
    """A token a line, a token a character, or byte-level BPE learned on the training texts."""
    num_merges: int = 64
    """Merges of the byte-level tokenizer."""
    prompt_weight: float = 0.01
    """Weight of the prompt's tokens in the loss; a completion's have 1."""
    width: int = 128
    """D of the GPT-2 decoder."""
    num_layers: int = 4
    """Its blocks."""
    num_heads: int = 4
    """Heads of a block."""
    epochs: int = 10
    """Passes over the training pieces."""
    batch_size: int = 8
    """Pieces a step."""
    learning_rate: float = 1.5e-3
    """Peak; cosine decay to a tenth."""
    warmup_steps: int = 20
    """Steps up to the peak."""
    dropout_rate: float = 0.0
    """Dropout in training."""
    keep_best: bool = False
    """Of each model keep the epoch with the lowest development loss (early stopping)."""
    repeats: int = 3
    """Models of other seeds, trained in one compiled call."""


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A small model pre-trained here on English, against the same one from random weights."""

    num_merges: int = 256
    """Merges of the byte-level tokenizer, learned on English and drum texts."""
    width: int = 128
    """D of the GPT-2 decoder."""
    num_layers: int = 4
    """Its blocks."""
    num_heads: int = 4
    """Heads of a block."""
    pretrain_steps: int = 240
    """Steps on English."""
    pretrain_batch: int = 16
    """Rows of `pretrain_length` tokens a step."""
    pretrain_length: int = 256
    """Tokens of a row of English."""
    tune_steps: int = 60
    """Steps on drums, the same for both."""
    batch_size: int = 8
    """Windows of four measures a step."""
    learning_rate: float = 1e-3
    """Peak, on English and on drums, for both."""
    repeats: int = 3
    """Seeds of each kind."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """SmolLM2-135M, tuned on drums, against the same architecture from random weights."""

    weights: str = "smollm2"
    """A data set of the catalogue, or the path of a GGUF or saved file."""
    whole_pieces: bool = False
    """Tune on whole pieces (an accelerator), not on windows of four measures."""
    steps: int = 20
    """Steps of each."""
    batch_size: int = 1
    """Texts (or packed rows) a step."""
    learning_rate: float = 1e-4
    """Peak, pre-trained."""
    random_learning_rate: float = 6e-4
    """Peak, from random weights."""
    random_steps: int | None = None
    """Steps from random weights, of which the best on development texts are kept (early stopping);
    by default as many as the others take, and the last."""
    decay: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls to a tenth."""
    prompt_weight: float = 0.01
    """Weight of the prompt's tokens in the loss; a completion's have 1."""
    frozen_layers: int = 0
    """Leave the embedding and so many first blocks of the pre-trained model as they are."""
    lora_learning_rate: float = 1e-3
    """Peak, low-rank adapters."""
    lora_rank: int = 8
    """Rank of the adapters on queries and values; 0 leaves the adapters out."""
    eval_rows: int = 6
    """Development windows that the loss is measured on."""
    repeats: int = 1
    """Seeds."""
    dtype: str = "float32"
    """Of matrix products in training."""
    num_measures: int = 2
    """Measures composed behind each prompt."""
    temperatures: tuple[float, ...] = (0.5, 0.9)
    """Temperatures of the compositions."""
    free_tokens: int = 60
    """Tokens drawn without the grammar, to count well-formed lines; 0 leaves it out."""
    batches: tuple[int, ...] = (1, 8, 37)
    """Batch sizes whose decoding speed is measured."""
    speed_tokens: int = 64
    """Tokens a prompt in the measurement of speed."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Drum texts, models from scratch and pre-trained, compositions and their metrics."""

    corpus: str = "groove"
    """groove (the data set), or library (our own grooves, no file)."""
    library_pieces: int = 168
    """Training pieces of the library; an eighth as many are held out, twice."""
    texts: Texts = dataclasses.field(default_factory=Texts)
    """What is made of the data set."""
    scratch: Scratch = dataclasses.field(default_factory=Scratch)
    """The model that is measured most closely."""
    small: Scratch = dataclasses.field(
        default_factory=lambda: Scratch(width=64, num_layers=2, epochs=4)
    )
    """A smaller one, for the question of size, and for ablations."""
    ablations: bool = True
    """Train the smaller one on less data, and with other prompt weights."""
    temperatures: tuple[float, ...] = (0.0, 0.5, 0.7, 0.9, 1.1)
    """Temperatures of the compositions; 0 is greedy."""
    transfer: Transfer = dataclasses.field(default_factory=Transfer)
    """Language-to-music transfer of a small model; needs the English texts."""
    pretrained: Pretrained = dataclasses.field(default_factory=Pretrained)
    """Language-to-music transfer of SmolLM2; left out where its weights are not fetched."""
    parts: tuple[str, ...] = ("small", "transfer", "pretrained", "speed")
    """What is done beside the model from random weights; speed is that of SmolLM2."""
    samples: int = 1000
    """Grooves drawn to count how many have exactly the asked bars."""
    sample_bars: int = 8
    """Bars of each."""
    grids: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 24)
    """Steps a quarter of the grids whose losses are measured, on real performances."""
    annotations: str | None = None
    """The expert's sheet, a CSV file, if you have it."""
    released_outputs: str | None = None
    """The released GPT-3 texts, {system: {name: text}} in JSON, if you have them."""
    shapes_only: bool = False
    """On a CPU, check the full-size models by shape and take one step at reduced width."""
    seed: int = 0
    """First seed; repeat r uses seed + r."""


PRESETS = {
    "quick": Config(
        corpus="library",
        scratch=Scratch(width=64, num_layers=2, epochs=12, learning_rate=3e-3, repeats=1),
        parts=(),
        temperatures=(0.0, 0.9),
        samples=64,
        grids=(),
    ),
    "bench": Config(),
    "paper": Config(
        small=Scratch(width=64, num_layers=2, epochs=4, repeats=5),
        scratch=Scratch(
            width=256, num_layers=6, num_heads=8, epochs=20, dropout_rate=0.1, keep_best=True
        ),
        pretrained=Pretrained(
            whole_pieces=True,
            steps=186,
            batch_size=8,
            repeats=5,
            dtype="bfloat16",
            eval_rows=47,
            num_measures=14,
        ),
        shapes_only=True,
    ),
}


def main(config: Config, run):
    """Runs the study and judges the claims; returns a `lab.report.Result`."""
    from experiments.drums.report import study_result

    return study_result(config, run)


def speed_cases():
    """Thirty-seven prompts continued together, one at a time, and token by token from Python."""
    from experiments.drums.decoding import cases

    return cases()
