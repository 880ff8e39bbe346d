"""Data sets that fit lie on the device; a step takes its batch there, nothing is transferred."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lab.data.streams import require_one_length
from lab.errors import require


@dataclasses.dataclass(frozen=True)
class Resident:
    """Arrays of one length whose batches are a function of the step's number.

    `lab.train.fit` takes one in place of a stream. Whoever compiles a step without it takes
    `batch = resident.batch_at(arrays, state.step)` in it, `arrays` being an argument.

    Attributes:
      arrays: name -> array, all of one length.
      batch_size: of all devices together.
      seed: of the order, which is another one in every epoch.
      drop_remainder: leave out an epoch's last, smaller batch; otherwise "mask" tells its rows.
    """

    arrays: Mapping[str, Any]
    batch_size: int
    seed: int = 0
    drop_remainder: bool = True

    def __post_init__(self) -> None:
        require_one_length(self.arrays)
        most = self.num_examples if self.drop_remainder else self.batch_size
        require(
            1 <= self.batch_size <= most,
            f"batch_size must lie in 1..{self.num_examples} (the examples), got {self.batch_size}",
        )

    @property
    def num_examples(self) -> int:
        """How many examples an epoch has."""
        return len(next(iter(self.arrays.values())))

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        whole, rest = divmod(self.num_examples, self.batch_size)
        return whole + (rest > 0 and not self.drop_remainder)

    def batch_at(
        self, arrays: Mapping[str, jax.Array], step: jax.Array, axis_name: str | None = None
    ) -> dict[str, jax.Array]:
        """The batch of a step, inside of a compiled function.

        Args:
          arrays: `self.arrays` as the compiled function was given them.
          step: int scalar, the number of steps before this one.
          axis_name: a device axis, each device then takes its equal part of the batch.
        Returns: name -> array [batch_size / devices, ...], with "mask" float32, 0 where a row
          repeats another one to fill the batch.
        """
        rows, mask = self._rows(step)
        if axis_name is not None:
            count = jax.lax.axis_size(axis_name)
            require(
                self.batch_size % count == 0,
                f"batch_size {self.batch_size} does not divide by {count} devices",
            )
            size = self.batch_size // count
            start = jax.lax.axis_index(axis_name) * size
            rows, mask = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (rows, mask))
        return {name: array[rows] for name, array in arrays.items()} | {"mask": mask}

    def _rows(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        epoch, batch = jnp.divmod(step, self.steps_per_epoch)
        key = jax.random.fold_in(jax.random.key(self.seed), epoch)
        order = jax.random.permutation(key, self.num_examples)
        place = batch * self.batch_size + jnp.arange(self.batch_size)
        is_real = place < self.num_examples
        rows = order[jnp.where(is_real, place, 0)]
        return rows, is_real.astype(jnp.float32)
