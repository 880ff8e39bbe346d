"""Language models as drummers: a groove as text, continued by a language model.

Zhang & Callison-Burch, "Language Models are Drummers: Drum Composition with Natural Language
Pre-Training", arXiv 2301.01162. The paper has no equations; its steps are these functions:

    MIDI -> drumroll (sec. 3)         read_midi, quantise, Groove.text; read_corpus for a data set
    prompt and completion (sec. 4.1)  make_row, prompt_of; drumroll_of and parse_drumroll back
    drumroll -> MIDI                  write_midi; write_official_midi for the script's bytes
    fine-tuning (sec. 4.1)            prompt_weighted_loss, fine_tuning, lora_tuning
    generation (sec. 4.1)             Composer, compose_bars, grammar
    structure (sec. 5, figs. 4, 5)    structure, stabilities, levenshtein, exact_two_means
    copying (fig. 6)                  copying, identity_shares
    expert's judgement (sec. 5)       read_annotations, tally
    baselines                         repeated, random_pieces, fit_lines
    weights                           open_model, save_model, from_official, to_official, from_gguf
"""

from lab.papers.drums.annotations import read_annotations, tally
from lab.papers.drums.clusters import exact_two_means, sklearn_two_means
from lab.papers.drums.codec import round_trip, tokens_per_bar, velocity_text
from lab.papers.drums.composing import Composer, Composition, compose_bars, prompt_of_groove
from lab.papers.drums.convert import from_gguf, from_official, to_official
from lab.papers.drums.copying import copying, identity_shares
from lab.papers.drums.corpus import Corpus, held_out_drummer, papers_files, read_corpus
from lab.papers.drums.data import buckets, encode_rows, packed, padded, windows
from lab.papers.drums.feel import humanise, measured_feel, plain_feel
from lab.papers.drums.grammar import grammar
from lab.papers.drums.grid import Groove, MeterError, quantise
from lab.papers.drums.library import groove, library_rows, style_names
from lab.papers.drums.lora import LoraConfig, init_lora, with_lora
from lab.papers.drums.losses import prompt_weighted_loss
from lab.papers.drums.markov import fit_lines
from lab.papers.drums.midi import Performance, read_midi
from lab.papers.drums.midi_writing import write_midi, write_official_midi
from lab.papers.drums.model_files import DrumModel, decoding_dtype, open_model, save_model
from lab.papers.drums.notation import drumroll_of, parse_drumroll, piano_roll_text, prompt_of
from lab.papers.drums.rows import Row, make_row, read_rows, save_rows
from lab.papers.drums.statistics import hit_density, onset_f1, pattern_distance, validity
from lab.papers.drums.steps import (
    begin,
    begin_lora,
    evaluation,
    fine_tuning,
    lora_tuning,
    optimizer,
)
from lab.papers.drums.structure import (
    fill_spikes,
    levenshtein,
    random_pieces,
    repeated,
    stabilities,
    structure,
)
from lab.papers.drums.synthesis import render, wav_bytes
from lab.papers.drums.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    LineTokenizer,
    gpt2_tokenizer,
    smollm2_tokenizer,
    tokenizer_of_gguf,
    train_bpe,
)

__all__ = [
    "ByteTokenizer",
    "CharacterTokenizer",
    "Composer",
    "Composition",
    "Corpus",
    "DrumModel",
    "Groove",
    "LineTokenizer",
    "LoraConfig",
    "MeterError",
    "Performance",
    "Row",
    "begin",
    "begin_lora",
    "buckets",
    "compose_bars",
    "copying",
    "decoding_dtype",
    "drumroll_of",
    "encode_rows",
    "evaluation",
    "exact_two_means",
    "fill_spikes",
    "fine_tuning",
    "fit_lines",
    "from_gguf",
    "from_official",
    "gpt2_tokenizer",
    "grammar",
    "groove",
    "held_out_drummer",
    "hit_density",
    "humanise",
    "identity_shares",
    "init_lora",
    "levenshtein",
    "library_rows",
    "lora_tuning",
    "make_row",
    "measured_feel",
    "onset_f1",
    "open_model",
    "optimizer",
    "packed",
    "padded",
    "papers_files",
    "parse_drumroll",
    "pattern_distance",
    "piano_roll_text",
    "plain_feel",
    "prompt_of",
    "prompt_of_groove",
    "prompt_weighted_loss",
    "quantise",
    "random_pieces",
    "read_annotations",
    "read_corpus",
    "read_midi",
    "read_rows",
    "render",
    "repeated",
    "round_trip",
    "save_model",
    "save_rows",
    "sklearn_two_means",
    "smollm2_tokenizer",
    "stabilities",
    "structure",
    "style_names",
    "tally",
    "to_official",
    "tokenizer_of_gguf",
    "tokens_per_bar",
    "train_bpe",
    "validity",
    "velocity_text",
    "wav_bytes",
    "windows",
    "with_lora",
    "write_midi",
    "write_official_midi",
]
