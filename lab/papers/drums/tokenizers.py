"""From drum texts to token ids: a token a line, a character, or a piece of bytes."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lab.errors import InvalidInputError, require, require_extra
from lab.papers.drums.notation import END, HIT, REST, SEPARATOR, WIDTH, is_line, lines_of

Merge = tuple[str, str]


class Tokenizer(Protocol):
    """What models and the grammar ask of a tokenizer.

    Attributes: vocab_size; pad_id, which fills rows; end_id, of a single `END` token, or -1.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...

    def drum_tokens(self) -> dict[int, str]:
        """The texts of all ids of which a drumroll can be made."""
        ...


@dataclasses.dataclass(frozen=True)
class LineTokenizer:
    """A token a line: the number of a step's state, 0..63, then `SEP`, `END` and padding.

    Whatever a model says is well formed. A hit in column c counts 2 ** (5 - c).
    """

    vocab_size: int = 67
    separator_id: int = 64
    end_id: int = 65
    pad_id: int = 66

    def encode(self, text: str) -> list[int]:
        """Raises: InvalidInputError for a line that is none of a drumroll."""
        return [self._id(line) for line in lines_of(text)]

    def decode(self, ids: Sequence[int]) -> str:
        texts = self._texts
        return "".join(texts.get(_checked(i, self.vocab_size), "") for i in ids)

    def drum_tokens(self) -> dict[int, str]:
        return dict(self._texts)

    def _id(self, line: str) -> int:
        if line in (SEPARATOR, END):
            return self.separator_id if line == SEPARATOR else self.end_id
        if not is_line(line):
            raise InvalidInputError(
                f"{line[:20]!r} is no line of a drumroll: {WIDTH} characters of "
                f"{HIT!r} and {REST!r}, {SEPARATOR} or {END}"
            )
        return int(line.replace(HIT, "1").replace(REST, "0"), 2)

    @functools.cached_property
    def _texts(self) -> dict[int, str]:
        bits = (format(state, f"0{WIDTH}b") for state in range(1 << WIDTH))
        lines = [b.replace("1", HIT).replace("0", REST) + "\n" for b in bits]
        return dict(enumerate([*lines, f"{SEPARATOR}\n", END]))


@dataclasses.dataclass(frozen=True)
class CharacterTokenizer:
    """A token a character of drum texts."""

    characters: str = f"{REST}{HIT}\nSEPND"

    @property
    def vocab_size(self) -> int:
        return len(self.characters) + 1

    @property
    def pad_id(self) -> int:
        return len(self.characters)

    @property
    def end_id(self) -> int:
        return -1

    def encode(self, text: str) -> list[int]:
        """Raises: InvalidInputError for a character that drum texts do not have."""
        text = text.replace("\r\n", "\n")
        strange = set(text) - set(self.characters)
        require(not strange, f"characters {sorted(strange)} occur in no drum text")
        return [self.characters.index(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        padded = [*self.characters, ""]
        return "".join(padded[_checked(i, self.vocab_size)] for i in ids)

    def drum_tokens(self) -> dict[int, str]:
        return dict(enumerate(self.characters))


class ByteTokenizer:
    """Byte-level BPE, run by the `tokenizers` library (extra `drums`).

    Args:
      vocabulary: token, in byte characters (`byte_characters`), to id; controls included.
      merges: pairs of byte-character tokens, lowest rank first.
      controls: tokens matched as whole strings, the longest first.
      isolate_digits: split off every digit before all else (SmolLM2).
      pad_id: fills rows of a batch.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[Merge],
        *,
        controls: Sequence[str] = (),
        isolate_digits: bool = False,
        pad_id: int = 0,
    ):
        library = require_extra("tokenizers", extra="drums")
        self.vocabulary, self.merges = dict(vocabulary), tuple(map(tuple, merges))
        self.controls, self.isolate_digits, self.pad_id = tuple(controls), isolate_digits, pad_id
        self.vocab_size = max(self.vocabulary.values()) + 1
        try:
            model = library.models.BPE(vocab=self.vocabulary, merges=list(self.merges))
        except Exception as error:  # the library raises a bare Exception
            raise InvalidInputError(f"merges and vocabulary contradict: {error}") from error
        self._library = library.Tokenizer(model)
        pieces = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if isolate_digits:
            digits = library.pre_tokenizers.Digits(individual_digits=True)
            pieces = library.pre_tokenizers.Sequence([digits, pieces])
        self._library.pre_tokenizer = pieces
        self._library.decoder = library.decoders.ByteLevel()
        added = [library.AddedToken(c, special=True, normalized=False) for c in self.controls]
        self._library.add_special_tokens(added)

    @property
    def end_id(self) -> int:
        return self.vocabulary.get(END, -1)

    def encode(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        ids = [_checked(i, self.vocab_size) for i in ids]
        return self._library.decode(ids, skip_special_tokens=False)

    def drum_tokens(self) -> dict[int, str]:
        back = {c: b for b, c in enumerate(byte_characters())}
        allowed, controls = set(CharacterTokenizer().characters), set(self.controls)
        found = {}
        for token, i in self.vocabulary.items():
            if token in controls or not all(c in back for c in token):
                continue
            text = bytes(back[c] for c in token).decode("latin-1")
            if set(text) <= allowed:
                found[i] = text
        return dict(sorted(found.items()))


def gpt2_tokenizer(merges: Sequence[Merge]) -> ByteTokenizer:
    """GPT-2's tokenizer from its merges: 256 bytes, the merges joined, `<|endoftext|>` last."""
    bytes_in_order = sorted(byte_characters(), key=lambda c: (ord(c) >= 256, ord(c)))
    tokens = [*bytes_in_order, *("".join(merge) for merge in merges), "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    last = vocabulary["<|endoftext|>"]
    return ByteTokenizer(vocabulary, merges, controls=("<|endoftext|>",), pad_id=last)


def smollm2_tokenizer(
    merges: Sequence[Merge], controls: Sequence[str], singles: Sequence[str]
) -> ByteTokenizer:
    """SmolLM2's tokenizer: control tokens, single bytes, the merges joined. Digits stand alone;
    bytes without a token are dropped."""
    tokens = [*controls, *singles, *("".join(merge) for merge in merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return ByteTokenizer(vocabulary, merges, controls=controls, isolate_digits=True, pad_id=2)


def tokenizer_of_gguf(metadata: Mapping[str, Any]) -> ByteTokenizer:
    """The tokenizer that a GGUF file describes (`tokenizer.ggml.*`).

    Raises: InvalidInputError for missing keys, another kind of tokenizer, or counts that differ.
    """
    wanted = [f"tokenizer.ggml.{name}" for name in ("model", "tokens", "token_type", "merges")]
    missing = [key for key in wanted if key not in metadata]
    require(not missing, f"the GGUF file describes no tokenizer: {', '.join(missing)} missing")
    kind, pre = metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre", "gpt-2")
    known = kind == "gpt2" and pre in ("smollm", "gpt-2", "gpt2", "default")
    require(known, f"tokenizer {kind!r} with pre-tokenizer {pre!r}; supported: gpt2 with smollm")
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    require(
        len(tokens) == len(types) == len(set(tokens)),
        f"{len(tokens)} tokens ({len(set(tokens))} distinct) and {len(types)} token types",
    )
    merges = [merge.partition(" ")[::2] for merge in metadata["tokenizer.ggml.merges"]]
    return ByteTokenizer(
        {token: i for i, token in enumerate(tokens)},
        merges,
        controls=[token for token, kind in zip(tokens, types, strict=True) if kind == 3],
        isolate_digits=pre == "smollm",
        pad_id=int(metadata.get("tokenizer.ggml.padding_token_id", 0)),
    )


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """The printable character of each byte 0..255 in GPT-2's vocabularies."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return tuple(chr(b) if b in kept else chr(next(others)) for b in range(256))


@dataclasses.dataclass(frozen=True)
class LearnedMerges:
    """Merges learned by `train_bpe`: (left id, right id, count), ids 0..255 being bytes."""

    merges: tuple[tuple[int, int, int], ...]

    def tokenizer(self) -> ByteTokenizer:
        """The tokenizer of these merges; one more id, the last, is padding."""
        tokens = list(byte_characters())
        pairs = []
        for left, right, _ in self.merges:
            pairs.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
        vocabulary = {token: i for i, token in enumerate(tokens)}
        # No byte character is a space, so no text can spell this token.
        vocabulary[" pad"] = len(tokens)
        return ByteTokenizer(vocabulary, pairs, pad_id=len(tokens))


def train_bpe(texts: Iterable[str], num_merges: int, *, min_count: int = 2) -> LearnedMerges:
    """Learns byte-level BPE: GPT-2's pieces, the most frequent neighbours merged, of equals the
    smallest (left id, right id); ends early where none occurs `min_count` times."""
    library = require_extra("tokenizers", extra="drums")
    cut = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    back = {c: b for b, c in enumerate(byte_characters())}
    counts = Counter(piece for text in texts for piece, _ in cut(text))
    words = [np.array([back[c] for c in piece], np.int64) for piece in counts]
    weights = list(counts.values())
    pairs, where = _pair_counts(words, weights)
    merges = []
    while len(merges) < num_merges and pairs:
        count, best = max((n, (-a, -b)) for (a, b), n in pairs.items())
        if count < min_count:
            break
        left, right, new = -best[0], -best[1], 256 + len(merges)
        merges.append((left, right, count))
        for i in sorted(where.pop((left, right))):
            _count(words[i], -weights[i], pairs)
            words[i] = _merged(words[i], left, right, new)
            _count(words[i], weights[i], pairs)
            for pair in zip(words[i].tolist(), words[i][1:].tolist(), strict=False):
                where.setdefault(pair, set()).add(i)
    return LearnedMerges(tuple(merges))


def _pair_counts(words, weights):
    pairs: Counter = Counter()
    where: dict[tuple[int, int], set[int]] = {}
    for i, (word, weight) in enumerate(zip(words, weights, strict=True)):
        _count(word, weight, pairs)
        for pair in zip(word.tolist(), word[1:].tolist(), strict=False):
            where.setdefault(pair, set()).add(i)
    return pairs, where


def _count(word, weight, pairs) -> None:
    for pair in zip(word.tolist(), word[1:].tolist(), strict=False):
        pairs[pair] += weight
        if pairs[pair] == 0:
            del pairs[pair]


def _merged(word: np.ndarray, left: int, right: int, new: int) -> np.ndarray:
    merged, i, ids = [], 0, word.tolist()
    while i < len(ids):
        is_pair = i + 1 < len(ids) and ids[i] == left and ids[i + 1] == right
        merged.append(new if is_pair else ids[i])
        i += 2 if is_pair else 1
    return np.array(merged, np.int64)


def _checked(token: int, vocab_size: int) -> int:
    token = int(token)
    require(0 <= token < vocab_size, f"token id {token} is outside 0..{vocab_size - 1}")
    return token
