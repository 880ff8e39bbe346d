"""Serving deletion requests durably: none is lost and none is done twice, whenever power fails.

A folder holds everything: `requests.jsonl`, the requests that were accepted, in order;
`receipts.jsonl`, the audit log of those that are done; `states/<k>`, the ensemble after the first k
requests. A request counts as accepted when its line is on the disk, and a state is saved by rename,
so after a kill the service goes on with the first request that no state holds. Retraining is a
function of the state and the request, so the result is the same, bit for bit.
"""

import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from lab.data.graphs import NodeDataset
from lab.errors import CheckpointError, InvalidInputError, require
from lab.files import append_line, held_alone, sync_folder, write_atomically
from lab.papers.graph_unlearning.aggregation import LBAggrConfig
from lab.papers.graph_unlearning.config import EnsembleConfig, prepare_features
from lab.papers.graph_unlearning.ensemble import Ensemble, Receipt, as_request, unlearn_request
from lab.papers.graph_unlearning.partition import PartitionOptions
from lab.papers.graph_unlearning.requests import Request, ShardedGraph, apply, without_features
from lab.papers.graph_unlearning.shards import PaddedShape
from lab.train.checkpoints import Checkpoints

_GRAPH_ARRAYS = (
    "edge_index",
    "labels",
    "train_ids",
    "test_ids",
    "removed_nodes",
    "featureless_nodes",
)


def save(ensemble: Ensemble, folder: str | os.PathLike[str], num_served: int = 0) -> None:
    """Saves the whole unlearnable state, atomically; features of the data set are not part of it.

    Args: num_served, the number of requests that it has seen; the state's name.
    Raises: CheckpointError.
    """
    _save(ensemble, Path(folder), num_served, receipt=None)


def load(folder: str | os.PathLike[str], dataset: NodeDataset) -> Ensemble:
    """Loads the newest saved state.

    Args: dataset, the one it was fitted on, deleted nodes included: their rows are cleared again.
    Raises: CheckpointError where nothing is saved, it is damaged, or the data set is another.
    """
    return _load(Path(folder), dataset)[0]


class DeletionService:
    """Requests to delete from one ensemble, kept in a folder; made by `create` or `open_service`.

    Attributes: folder; ensemble, as of the last request that is done.
    """

    def __init__(self, folder: Path, ensemble: Ensemble, num_served: int):
        self.folder, self.ensemble, self._num_served = folder, ensemble, num_served
        self._requests = _read_lines(folder / "requests.jsonl")
        self._graph = ensemble.graph  # as it will be when all accepted requests are done
        for line in self._requests[num_served:]:
            self._graph, _ = apply(self._graph, _request_of(line))

    @property
    def pending(self) -> int:
        """Number of requests that are accepted and not yet done."""
        return len(self._requests) - self._num_served

    def submit(
        self, request_id: str, *, nodes: Any = None, edges: Any = None, features: Any = None
    ) -> bool:
        """Accepts a request: when this returns, it is on the disk and will be done.

        Args: request_id, the sender's name for it; see `ensemble.unlearn` for the others.
        Returns: False where a request of this id was accepted before (it is not done again).
        Raises: InvalidInputError where it cannot be done after those already accepted, or the id
          was used for another request; StorageError. Nothing is accepted then.
        """
        require(bool(request_id), "a request needs an id")
        request = as_request(nodes, edges, features)
        line = {"id": request_id, "kind": request.kind, "items": request.items.tolist()}
        known = {accepted["id"]: accepted for accepted in self._requests}
        if request_id in known:
            require(known[request_id] == line, f"request id {request_id!r} is taken by another")
            return False
        self._graph, _ = apply(self._graph, request)
        _append_durably(self.folder / "requests.jsonl", line)
        self._requests.append(line)
        return True

    def serve(self) -> list[dict[str, Any]]:
        """Does every accepted request, one after the other, and returns their audit lines."""
        lines = []
        while self.pending:
            accepted = self._requests[self._num_served]
            self.ensemble, receipt = unlearn_request(self.ensemble, _request_of(accepted))
            self._num_served += 1
            line = _audit_line(accepted, receipt, self._num_served)
            _save(self.ensemble, self.folder / "states", self._num_served, line)
            _append_durably(self.folder / "receipts.jsonl", line)
            lines.append(line)
        return lines

    def audit_log(self) -> list[dict[str, Any]]:
        """What was done: id, kind, items, shards, removed edges, seconds, for every request."""
        return _read_lines(self.folder / "receipts.jsonl")


def create(folder: str | os.PathLike[str], ensemble: Ensemble) -> None:
    """Makes a new service around a fitted ensemble.

    Raises: InvalidInputError where the folder already holds one; StorageError, CheckpointError.
    """
    folder = Path(folder)
    require(
        not (folder / "states").exists(),
        f"{folder} already holds a service; open it, or choose another folder",
    )
    save(ensemble, folder / "states")


@contextlib.contextmanager
def open_service(folder: str | os.PathLike[str], dataset: NodeDataset) -> Iterator[DeletionService]:
    """Opens a service for the block, alone; what a kill interrupted is pending again.

    Raises: StorageError where another process has it open; CheckpointError.
    """
    folder = Path(folder)
    if not (folder / "states").is_dir():
        raise CheckpointError(f"{folder} holds no deletion service; `create` makes one")
    with held_alone(folder / "lock"):
        ensemble, num_served, last = _load(folder / "states", dataset)
        for name in ("requests.jsonl", "receipts.jsonl"):
            _cut_torn_line(folder / name)
        done = _read_lines(folder / "receipts.jsonl")
        if last is not None and len(done) < num_served:
            # Killed between saving the state and writing its receipt.
            _append_durably(folder / "receipts.jsonl", last)
        yield DeletionService(folder, ensemble, num_served)


def _audit_line(accepted: dict, receipt: Receipt, number: int) -> dict[str, Any]:
    effect = receipt.effect
    return accepted | {
        "number": number,
        "affected_shards": effect.affected_shards.tolist(),
        "retrained_shards": effect.retrained_shards.tolist(),
        "emptied_shards": effect.emptied_shards.tolist(),
        "num_removed_edges": effect.num_removed_edges,
        "train_seconds": round(receipt.train_seconds, 4),
        "seconds": round(receipt.seconds, 4),
    }


def _request_of(line: dict[str, Any]) -> Request:
    return Request(line["kind"], np.asarray(line["items"]))


def _save(ensemble: Ensemble, folder: Path, number: int, receipt: dict | None) -> None:
    arrays = _arrays_of(ensemble)
    position = {
        "config": dataclasses.asdict(ensemble.config),
        "num_classes": ensemble.num_classes,
        "num_shards": ensemble.graph.num_shards,
        "train_shape": list(ensemble.train_shape),
        "inference_shape": list(ensemble.inference_shape),
        "num_columns": ensemble.num_columns,
        "seconds": ensemble.seconds,
        "dataset": _fingerprint(ensemble),
        "receipt": receipt,
        "arrays": {name: [list(x.shape), str(x.dtype)] for name, x in arrays.items()},
    }
    Checkpoints(folder).save(number, arrays, position=position)
    sync_folder(folder)


def _load(folder: Path, dataset: NodeDataset) -> tuple[Ensemble, int, dict | None]:
    checkpoints = Checkpoints(folder)
    number = checkpoints.latest()
    if number is None:
        raise CheckpointError(f"no saved ensemble in {folder}")
    kept = checkpoints.note(number)["position"]
    like = {
        name: jax.ShapeDtypeStruct(tuple(shape), dtype)
        for name, (shape, dtype) in kept["arrays"].items()
    }
    arrays = jax.tree.map(np.asarray, checkpoints.restore(like, number))
    config = _config_from(kept["config"])
    graph = ShardedGraph(
        num_shards=kept["num_shards"], **{name: arrays[f"graph/{name}"] for name in _GRAPH_ARRAYS}
    )
    variables = {k.removeprefix("model/"): v for k, v in arrays.items() if k.startswith("model/")}
    ensemble = Ensemble(
        config=config,
        features=without_features(prepare_features(dataset, config.features), graph),
        labels=dataset.labels,
        num_classes=kept["num_classes"],
        graph=graph,
        variables=traverse_util.unflatten_dict(variables, sep="/"),
        train_shape=PaddedShape(*kept["train_shape"]),
        inference_shape=PaddedShape(*kept["inference_shape"]),
        num_columns=kept["num_columns"],
        weights=arrays["weights"],
        seconds=kept["seconds"],
    )
    if _fingerprint(ensemble) != kept["dataset"]:
        raise CheckpointError(
            f"the ensemble in {folder} was fitted on another data set than {dataset.name!r}"
        )
    return ensemble, number, kept["receipt"]


def _arrays_of(ensemble: Ensemble) -> dict[str, np.ndarray]:
    graph = {f"graph/{name}": getattr(ensemble.graph, name) for name in _GRAPH_ARRAYS}
    variables = traverse_util.flatten_dict(ensemble.variables, sep="/")
    models = {f"model/{name}": np.asarray(x) for name, x in variables.items()}
    return graph | models | {"weights": ensemble.weights}


def _fingerprint(ensemble: Ensemble) -> list[int]:
    """Sizes, and checksums of labels and of the features of test nodes, which nothing deletes."""
    test_rows = ensemble.features[np.sort(ensemble.graph.test_ids)]
    return [*ensemble.features.shape, zlib.crc32(ensemble.labels.data), zlib.crc32(test_rows.data)]


def _config_from(values: dict[str, Any]) -> EnsembleConfig:
    try:
        values = values | {
            "partition": PartitionOptions(**values["partition"]),
            "lbaggr": LBAggrConfig(**values["lbaggr"]),
        }
        if values["num_neighbours"] is not None:
            values["num_neighbours"] = tuple(values["num_neighbours"])
        return EnsembleConfig(**values)
    except (TypeError, KeyError, InvalidInputError) as error:
        raise CheckpointError(f"the saved configuration does not fit: {error}") from error


def _append_durably(path: Path, line: dict[str, Any]) -> None:
    append_line(path, json.dumps(line))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _cut_torn_line(path: Path) -> None:
    """Drops what a kill left of a line: it was never acknowledged."""
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomically(path, whole)
