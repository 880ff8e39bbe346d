"""A decoder with its tokenizer as one thing: opened from a file, saved to one."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lab.errors import CorruptFileError, InvalidInputError, require
from lab.interop import load_checkpoint, save_safetensors
from lab.interop.gguf_files import open_gguf
from lab.nn.decoder import DecoderConfig, Params, num_parameters
from lab.papers.drums.convert import from_gguf, from_official, to_official, with_dtype
from lab.papers.drums.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    LineTokenizer,
    Tokenizer,
    tokenizer_of_gguf,
)

_DESCRIPTION = "tenfold"


@dataclasses.dataclass(frozen=True)
class DrumModel:
    """Configuration, parameters (`blocks` stacked) and tokenizer."""

    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        require(
            self.tokenizer.vocab_size <= self.config.vocab_size,
            f"the tokenizer has {self.tokenizer.vocab_size} ids, the model "
            f"{self.config.vocab_size}: they do not belong together",
        )

    @property
    def num_parameters(self) -> int:
        return num_parameters(self.config)

    def with_dtype(self, dtype: str) -> "DrumModel":
        """The model for decoding in another precision; bfloat16 is read twice as fast."""
        config, params = with_dtype(self.config, self.params, dtype)
        return dataclasses.replace(self, config=config, params=params)


def decoding_dtype() -> str:
    """bfloat16 where the machine multiplies it natively, else float32.

    Accelerators do; of CPUs those with AMX or AVX-512 BF16. Others would widen every weight first.
    """
    if jax.default_backend() != "cpu":
        return "bfloat16"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "float32"
    return "bfloat16" if "amx_bf16" in flags or "avx512_bf16" in flags else "float32"


def open_model(path: str | Path) -> DrumModel:
    """A model from a GGUF file, or from one that `save_model` wrote.

    Raises: CorruptFileError, DataError, FileNotFoundError.
    """
    path = Path(path)
    if path.suffix == ".gguf":
        file = open_gguf(path)
        config, params = from_gguf(file)
        return DrumModel(config, _on_device(params), tokenizer_of_gguf(file.metadata))
    checkpoint = load_checkpoint(path)
    described = checkpoint.extras.get(_DESCRIPTION)
    if described is None:
        raise CorruptFileError(
            f"{path} does not say which model it holds: it was not written by save_model. Use "
            "lab.papers.drums.from_official(load_checkpoint(path), config) with its configuration"
        )
    try:
        values = json.loads(described)
        config = DecoderConfig(**values["config"])
        tokenizer = _tokenizer_of(values["tokenizer"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{path} describes its model wrongly: {error}") from error
    return DrumModel(config, _on_device(from_official(checkpoint, config)), tokenizer)


def save_model(model: DrumModel, path: str | Path) -> Path:
    """Writes the weights under the public names of its architecture, as safetensors.

    The configuration and the tokenizer stand in the file's metadata.
    """
    arrays = to_official(jax.tree.map(np.asarray, model.params), model.config)
    described = {
        "config": dataclasses.asdict(model.config),
        "tokenizer": _description_of(model.tokenizer),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    single = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    save_safetensors(path, single, metadata={_DESCRIPTION: json.dumps(described)})
    return path


def _on_device(params: Params) -> Params:
    return jax.tree.map(jnp.asarray, params)


def _description_of(tokenizer: Tokenizer) -> dict:
    if isinstance(tokenizer, LineTokenizer):
        return {"kind": "line"}
    if isinstance(tokenizer, CharacterTokenizer):
        return {"kind": "character"}
    if isinstance(tokenizer, ByteTokenizer):
        return {
            "kind": "bytes",
            "vocabulary": tokenizer.vocabulary,
            "merges": [" ".join(merge) for merge in tokenizer.merges],
            "controls": list(tokenizer.controls),
            "isolate_digits": tokenizer.isolate_digits,
            "pad_id": tokenizer.pad_id,
        }
    raise InvalidInputError(f"a {type(tokenizer).__name__} cannot be saved")


def _tokenizer_of(values: dict) -> Tokenizer:
    kind = values["kind"]
    if kind in ("line", "character"):
        return LineTokenizer() if kind == "line" else CharacterTokenizer()
    if kind != "bytes":
        raise ValueError(f"tokenizer {kind!r}")
    return ByteTokenizer(
        values["vocabulary"],
        [merge.partition(" ")[::2] for merge in values["merges"]],
        controls=values["controls"],
        isolate_digits=values["isolate_digits"],
        pad_id=values["pad_id"],
    )
