"""Saved states: whole pytrees with orbax, atomic, with a checksum of every array."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lab.errors import CheckpointError, require
from lab.train.devices import largest_over_processes


class Checkpoints:
    """A folder of saved states, one a step: `save`, `latest`, `restore`.

    A state is a pytree of arrays (typed keys included). A save is written beside and renamed, so
    a kill leaves the previous one whole. Old ones beyond `keep` are deleted, never the `best`.
    With several processes the first one writes, and all of them read from the shared folder.

    Args:
      folder: created when first saved to.
      keep: how many to keep; None keeps all.
      best: `metrics -> score`, higher is better; the best scored saves are kept too.
      keep_best: how many of those.
    """

    folder: Path
    keep: int | None

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int | None = 2,
        best: Callable[[dict[str, float]], float] | None = None,
        keep_best: int = 1,
    ):
        require(keep is None or keep >= 1, f"keep must be at least 1 or None, got {keep}")
        require(keep_best >= 1, f"keep_best must be at least 1, got {keep_best}")
        self.folder, self.keep, self.best_fn = Path(folder).absolute(), keep, best
        self.keep_best = keep_best

    def steps(self) -> list[int]:
        """Steps that have a finished save, ascending."""
        if not self.folder.is_dir():
            return []
        names = [entry.name for entry in self.folder.iterdir() if entry.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def latest(self) -> int | None:
        """The newest saved step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The saved step with the highest score, or None where nothing has one."""
        return next(iter(self._ranked()), None)

    def save(
        self,
        step: int,
        state: Any,
        *,
        metrics: dict[str, float] | None = None,
        position: Any = None,
    ) -> None:
        """Saves `state` under `step`, replacing a save of the same step.

        Args: metrics, floats kept beside it and scored by `best`; position, anything JSON can
          hold (the data position of a stream).
        Raises: CheckpointError where the folder cannot be written or the disk is full; earlier
          saves are untouched.
        """
        failure = None
        if jax.process_index() == 0:
            failure = self._try_to_save(step, state, metrics, position)
        if largest_over_processes(int(failure is not None)):
            raise CheckpointError(
                f"cannot save step {step} to {self.folder}: {_first_line(failure)}; "
                "earlier saves are untouched. Free some space or choose another folder."
            ) from failure

    def _try_to_save(self, step, state, metrics, position) -> Exception | None:
        arrays = jax.tree.map(np.asarray, jax.device_get(_to_arrays(state)))
        score = float(self.best_fn(metrics)) if self.best_fn and metrics else None
        note = {
            "checksums": _checksums(arrays),
            "metrics": metrics or {},
            "position": position,
            "score": score,
        }
        final, partial = self.folder / str(step), self.folder / f"{step}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(partial, arrays, note)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        except Exception as error:  # orbax and tensorstore raise many kinds for one full disk
            shutil.rmtree(partial, ignore_errors=True)
            return error
        self._forget_old()
        return None

    def restore(self, like: Any, step: int | None = None) -> Any:
        """Loads the state saved at `step`, or the newest.

        Args: like, a pytree of arrays or ShapeDtypeStructs of the same structure.
        Returns: the pytree with jax arrays.
        Raises: CheckpointError where nothing is saved, a file is damaged or missing, or the saved
          structure, shapes or dtypes are not those of `like`.
        """
        step = self.latest() if step is None else step
        if step is None or step not in self.steps():
            have = f"it has steps {self.steps()}" if self.steps() else "it has none"
            raise CheckpointError(f"no saved state for step {step} in {self.folder}: {have}")
        path, note = self.folder / str(step), self.note(step)
        expected = jax.eval_shape(_to_arrays, like)
        _check_fits(expected, note["checksums"], path)
        try:
            with _checkpointer() as checkpointer:
                arrays = checkpointer.restore(path / "state", _not_empty(expected))
        except Exception as error:
            raise CheckpointError(
                f"the saved state {path} is damaged: {_first_line(error)}{_way_out(self, step)}"
            ) from error
        arrays |= {k: np.zeros(v.shape, v.dtype) for k, v in expected.items() if k not in arrays}
        wrong = [k for k, v in _checksums(arrays).items() if v != note["checksums"][k]]
        if wrong:
            raise CheckpointError(
                f"the saved state {path} is damaged: wrong checksum of {wrong[0]}"
                f"{_way_out(self, step)}"
            )
        return _from_arrays(arrays, like)

    def note(self, step: int) -> dict[str, Any]:
        """What was kept beside the state of `step`: metrics, position, score, checksums."""
        path = self.folder / str(step) / "note.json"
        try:
            note = json.loads(path.read_text())
            _ = note["checksums"], note["metrics"]
            return note
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the saved state {path.parent} is damaged: {path.name} cannot be read "
                f"({_first_line(error)}){_way_out(self, step)}"
            ) from error

    def _ranked(self) -> list[int]:
        """The steps that have a score, best first; of equals the newest."""
        scores = {step: self.note(step).get("score") for step in self.steps()}
        scored = {step: score for step, score in scores.items() if score is not None}
        return sorted(scored, key=lambda step: (scored[step], step), reverse=True)

    def _forget_old(self) -> None:
        if self.keep is None:
            return
        best = self._ranked()[: self.keep_best] if self.best_fn else []
        kept = {*self.steps()[-self.keep :], *best}
        for step in set(self.steps()) - kept:
            shutil.rmtree(self.folder / str(step), ignore_errors=True)


def _write(partial: Path, arrays: Any, note: dict) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    with _checkpointer() as checkpointer:
        checkpointer.save(partial / "state", _not_empty(arrays))
    (partial / "note.json").write_text(json.dumps(note))


def _not_empty(arrays: dict[str, Any]) -> dict[str, Any]:
    """Those with elements: orbax refuses others, and their shapes stand in the note."""
    return {name: x for name, x in arrays.items() if x.size}


def _checkpointer() -> ocp.StandardCheckpointer:
    """One that asks nothing of other processes: every one holds the whole state."""
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process{this}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _to_arrays(tree: Any) -> dict[str, Any]:
    """Names every leaf by its path; typed keys become their uint32 data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in leaves}


def _plain(leaf: Any) -> Any:
    if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return jnp.asarray(leaf)


def _from_arrays(arrays: dict[str, Any], like: Any) -> Any:
    def revive(path, leaf):
        value = arrays[jax.tree_util.keystr(path)]
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                value, impl=jax.random.key_impl(jnp.empty((), leaf.dtype))
            )
        return value

    return jax.tree_util.tree_map_with_path(revive, like)


def _checksums(arrays: dict[str, Any]) -> dict[str, list]:
    """Shape, dtype and CRC-32 of every array."""
    host = {name: np.asarray(jax.device_get(x)) for name, x in arrays.items()}
    return {
        name: [list(x.shape), str(x.dtype), zlib.crc32(x.tobytes())] for name, x in host.items()
    }


def _check_fits(expected: dict[str, Any], saved: dict[str, list], path: Path) -> None:
    missing, extra = sorted(set(expected) - set(saved)), sorted(set(saved) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"the saved state {path} is of another program: "
            f"it lacks {missing[:3] or 'nothing'} and has {extra[:3] or 'nothing'} besides"
        )
    for name, want in expected.items():
        if (list(want.shape), str(want.dtype)) != (saved[name][0], saved[name][1]):
            raise CheckpointError(
                f"the saved state {path} does not fit: {name} is {saved[name][1]}{saved[name][0]}, "
                f"this program has {want.dtype}{list(want.shape)}"
            )


def _way_out(checkpoints: Checkpoints, step: int) -> str:
    others = [other for other in checkpoints.steps() if other != step]
    if others:
        return f". Delete it to go on from step {max(others)}."
    return ". Delete it to start again; there is no earlier one."


def _first_line(error: Exception | None) -> str:
    if error is None:
        return "the first process could not"
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
