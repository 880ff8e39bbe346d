"""Streams of batches: shuffled, read ahead, cut into the parts of several hosts, resumable.

A source is what examples are read from, many at a time: `ArraySource` here, `ImageFolder` and
`ImageArchive` of `lab.data.folders`, or anything with a length and `read(indices)`. Grain shuffles
and reads ahead, in threads or in worker processes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import grain
import jax
import numpy as np
from absl import flags

from lab.errors import InvalidInputError, require

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Examples that can be read in any order."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, indices: np.ndarray) -> Batch:
        """The examples of `indices`, int [n], stacked: name -> array [n, ...]."""
        ...


@dataclasses.dataclass(frozen=True)
class ArraySource:
    """Examples that lie in memory: name -> array, all of one length along their first axis."""

    arrays: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        require_one_length(self.arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def read(self, indices: np.ndarray) -> Batch:
        return {name: array[indices] for name, array in self.arrays.items()}


class Stream:
    """Iterator of batches that knows its position; made by `stream`.

    Each batch is name -> array [batch_size / hosts, ...], with "mask" float32, 0 where a row is
    padding. The position counts batches, so it is the same on every host, and may be taken up
    with another number of workers or hosts.
    """

    def __init__(
        self, batches: grain.MapDataset, read_ahead: Callable, description: dict[str, Any]
    ):
        self.description = description
        self._batches, self._read_ahead = batches, read_ahead
        self._taken, self._iterator = 0, None

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        if self._taken >= len(self._batches):
            raise StopIteration
        if self._iterator is None:
            self._iterator = iter(self._read_ahead(self._batches[self._taken :]))
        batch = next(self._iterator)
        self._taken += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON can hold it."""
        return {"batch": self._taken, "of": self.description}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` gave.

        Raises: InvalidInputError for the position of another stream (it names what differs).
        """
        try:
            taken, of = int(state["batch"]), dict(state["of"])
        except (TypeError, KeyError, ValueError) as error:
            raise InvalidInputError(f"not the position of a stream: {state!r:.200}") from error
        changed = [
            f"{name} was {of.get(name)!r} and is {value!r}"
            for name, value in self.description.items()
            if of.get(name) != value
        ]
        require(not changed, f"the position is one of another stream: {'; '.join(changed)}")
        self.close()
        self._taken = taken

    def close(self) -> None:
        """Ends the worker processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def stream(
    source: Source,
    batch_size: int,
    *,
    seed: int = 0,
    num_epochs: int | None = None,
    shuffle: bool = True,
    drop_remainder: bool = True,
    num_workers: int = 0,
    num_threads: int = 2,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Stream:
    """Streams a source in batches.

    Args:
      batch_size: of all hosts together; divides by their number.
      seed: of the order, which is another one in every epoch.
      num_epochs: None streams for ever.
      drop_remainder: leave out an epoch's last, smaller batch. Otherwise it comes padded with
        repeats of one of its rows, and "mask" tells.
      num_workers: processes that read ahead; 0 reads in `num_threads` threads of this one. The
        program's main file is imported by each of them: keep its work below
        `if __name__ == "__main__"`.
      process_index, process_count: this host and how many there are; by default those of jax.
    Raises: InvalidInputError; errors of the source come out of `next`.
    """
    count = jax.process_count() if process_count is None else process_count
    index = jax.process_index() if process_index is None else process_index
    require(len(source) > 0, "the source has no examples")
    require(
        batch_size >= 1 and batch_size % count == 0,
        f"batch_size must be positive and divide by {count} hosts, got {batch_size}",
    )
    require(
        not drop_remainder or len(source) >= batch_size,
        f"batch_size {batch_size} is larger than the source, {len(source)} examples; "
        "choose a smaller one or drop_remainder=False",
    )
    order = grain.MapDataset.range(len(source))
    if shuffle:
        # Grain adds the epoch to the seed; spreading it keeps neighbouring seeds apart.
        order = order.shuffle(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    batches = order.batch(batch_size, drop_remainder=drop_remainder)
    batches = batches.map(_ReadPart(source, batch_size, index, count)).repeat(num_epochs)
    description = {
        "examples": len(source),
        "batch_size": batch_size,
        "seed": seed if shuffle else None,
        "drop_remainder": drop_remainder,
    }
    read_ahead = functools.partial(_read_ahead, num_threads=num_threads, num_workers=num_workers)
    return Stream(batches, read_ahead, description)


def in_order(source: Source, batch_size: int, **options: Any) -> Iterator[Batch]:
    """One pass over a source in its own order, for evaluation; the last batch is padded.

    Args: options, num_workers, num_threads and so on as of `stream`.
    """
    options = {"num_epochs": 1, "shuffle": False, "drop_remainder": False} | options
    once = stream(source, batch_size, **options)
    try:
        yield from once
    finally:
        once.close()


def pad(batch: Batch, size: int) -> Batch:
    """Pads a batch to `size` rows with repeats of its first row, and adds "mask" float32 [size]."""
    rows = len(next(iter(batch.values())))
    require(0 < rows <= size, f"a batch of {rows} rows cannot be padded to {size}")
    padded = {
        name: np.concatenate([array, np.repeat(array[:1], size - rows, axis=0)])
        for name, array in batch.items()
    }
    return padded | {"mask": (np.arange(size) < rows).astype(np.float32)}


def require_one_length(arrays: Mapping[str, Any]) -> None:
    """Raises InvalidInputError unless there are arrays, all with the same first axis."""
    lengths = {name: len(array) for name, array in arrays.items()}
    require(len(set(lengths.values())) == 1, f"arrays must have one length, got {lengths}")
    require("mask" not in arrays, 'the name "mask" is kept for the mask of real rows')


def _read_ahead(batches: grain.MapDataset, num_threads: int, num_workers: int) -> grain.IterDataset:
    ahead = batches.to_iter_dataset(grain.ReadOptions(num_threads, prefetch_buffer_size=4))
    if not num_workers:
        return ahead
    if not flags.FLAGS.is_parsed():  # grain reads its absl flags, which no one parses here
        flags.FLAGS.mark_as_parsed()
    return ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2))


@dataclasses.dataclass(frozen=True)
class _ReadPart:
    """Reads one host's rows of a global batch of example indices."""

    source: Source
    batch_size: int
    host: int
    num_hosts: int

    def __call__(self, indices: np.ndarray) -> Batch:
        # Padded before it is cut, so that the rows do not depend on the number of hosts.
        whole = np.append(indices, np.full(self.batch_size - len(indices), indices[0]))
        mask = (np.arange(self.batch_size) < len(indices)).astype(np.float32)
        rows = self.batch_size // self.num_hosts
        part = slice(self.host * rows, (self.host + 1) * rows)
        return self.source.read(whole[part]) | {"mask": mask[part]}
