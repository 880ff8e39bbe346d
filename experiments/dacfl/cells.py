"""One cell of the study: a data set, a partition and a network, several algorithms, some seeds."""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import hosts
from experiments.dacfl import Config
from lab.data.augment.crops import random_crop, random_flip
from lab.data.embedded import generated_digits
from lab.data.npz import write_npz
from lab.errors import require
from lab.nn.convnets import ConvNetConfig, MLPConfig
from lab.papers import dacfl
from lab.papers.dacfl import periods
from lab.papers.dacfl.data import examples_of
from lab.papers.dacfl.losses import with_augmentation
from lab.papers.dacfl.metrics import disagreement
from lab.papers.dacfl.partition import label_histogram
from lab.train import Checkpoints

SMALL_MLP = MLPConfig(hidden=(16,))
NUM_CLASSES = 10
# The learning rate of the protocol multiplies their updates.
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(1.0),
    "momentum": lambda: optax.sgd(1.0, momentum=0.9),
    "adam": lambda: optax.adam(1.0),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is run; `name` is also the name of its file.

    Attributes: algorithms, (name, algorithm) pairs; the files, where the network or the partition
    comes from one; the other fields are as in their rooms.
    """

    name: str
    dataset: str
    partition: dacfl.PartitionConfig
    network: dacfl.NetworkConfig
    protocol: dacfl.Protocol
    algorithms: tuple[tuple[str, dacfl.Algorithm], ...]
    num_users: int
    model: str
    num_train: int
    num_test: int
    repeats: int
    seed: int
    compression: dacfl.CompressionConfig | None = None
    lr_scales: tuple[float, ...] = (1.0,)
    augment: bool = False
    optimizer: str = "sgd"
    same_start: bool = True
    edges_file: Path | None = None
    weights_file: Path | None = None
    partition_file: Path | None = None

    @property
    def num_copies(self) -> int:
        """Seeds times learning rates."""
        return self.repeats * len(self.lr_scales)


class CellResult:
    """What a cell measured: arrays by name, the copies first.

    `<algorithm>/<metric>` as in `Simulated.history`; `<algorithm>/final_<readout>` [copies, N],
    accuracies on the whole test set; `sigmas` [copies, T]; `degrees` [copies, T, N]; `histogram`
    [N, C] and `matrix` [N, N] of the first copy; `message` numbers in one model's message; `start`
    [copies], |(I - J) omega^0|, where users begin apart.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def average(self, algorithm: str, readout: str) -> np.ndarray:
        """Average of Acc of each seed, in percent, whole test set, last round; [copies]."""
        return 100 * self.arrays[f"{algorithm}/final_{readout}"].mean(axis=-1)

    def variance(self, algorithm: str, readout: str) -> np.ndarray:
        """Var of Acc of each seed in percent², whole test set, last round; [copies]."""
        return 1e4 * self.arrays[f"{algorithm}/final_{readout}"].var(axis=-1)

    def late_variance(self, algorithm: str, readout: str) -> np.ndarray:
        """Var of Acc in percent² as the mean of the last five evaluations; [copies]."""
        late = self.arrays[f"{algorithm}/accuracy_{readout}"][:, -5:]
        return 1e4 * late.var(axis=-1).mean(axis=1)

    def worst(self, algorithm: str, readout: str) -> np.ndarray:
        """Accuracy of the worst user in percent, whole test set, last round; [copies]."""
        return 100 * self.arrays[f"{algorithm}/final_{readout}"].min(axis=-1)

    def megabytes(self, algorithm: str) -> np.ndarray:
        """What a user has sent at each evaluation, in bytes, mean over users of the first copy."""
        rule = dacfl.algorithm(algorithm)
        degrees, message = self.arrays["degrees"][0], float(self.arrays["message"])
        sent = dacfl.per_round(rule, message, degrees).mean(axis=1).cumsum() * 4
        num_periods = self.arrays[f"{algorithm}/accuracy_mean"].shape[1]
        return sent[len(sent) // num_periods - 1 :: len(sent) // num_periods]


def protocol_of(config: Config, **changes: Any) -> dacfl.Protocol:
    """The protocol of a configuration, with changes (`lr0` among them)."""
    rate = dacfl.LearningRate(
        changes.pop("lr0", config.learning_rate), config.decay, config.decay_every
    )
    given = {
        "num_rounds": config.num_rounds,
        "batch_size": config.batch_size,
        "local_steps": config.local_steps,
        "local_epochs": config.local_epochs,
        "log_every": config.log_every,
        "chunk_periods": config.checkpoint_every,
    }
    return dacfl.Protocol(**given | changes, learning_rate=rate)


def network_config(config: Config, name: str) -> dacfl.NetworkConfig:
    """The network that the grid calls `name`, `<graph>` or `<graph>_every_<rounds>`."""
    kind, _, rounds = name.partition("_every_")
    graph = config.graph
    own = {"dense": "complete", "sparse": "density", "file": "complete"}
    return dacfl.NetworkConfig(
        dacfl.TopologyConfig(
            own.get(kind, kind), graph.psi, graph.probability, graph.degree, graph.rows
        ),
        dacfl.MixingConfig(graph.mixing, graph.eps),
        change_every=int(rounds or 0),
        ensure=graph.ensure,
        union_slots=graph.union_slots,
        failures=dacfl.FailureConfig(**dataclasses.asdict(config.failures)),
    )


def partition_config(config: Config, name: str) -> dacfl.PartitionConfig:
    """The partition that the grid calls `name`."""
    split = config.split
    scheme = "iid" if name == "file" else name
    return dacfl.PartitionConfig(
        scheme, split.shards_per_user, split.alpha, split.balance, split.min_size
    )


def run_cell(cell: Cell, run: Any) -> CellResult:
    """Measures a cell, or reads what an earlier part of this run has measured."""
    folder = hosts.checkpoints_of(run)
    kept = folder / f"{cell.name}.npz"
    if kept.exists():
        with np.load(kept, allow_pickle=False) as file:
            return CellResult({name: file[name] for name in file.files})
    arrays = _measure(cell, run, folder / cell.name)
    if hosts.is_first():
        write_npz(kept, **arrays)
        shutil.rmtree(folder / cell.name, ignore_errors=True)
        # The time until here is what a resumed run goes on from.
        result = CellResult(arrays)
        averages = {
            name: result.average(name, "x" if rule.tracks_models else "omega").mean()
            for name, rule in cell.algorithms
        }
        run.log(len(list(folder.glob("*.npz"))), cell=cell.name, average_of_acc=averages)
    return CellResult(arrays)


def _measure(cell: Cell, run: Any, folder: Path) -> dict[str, np.ndarray]:
    train, test, everything = examples(cell.dataset, cell.num_train, cell.num_test, run.data_dir)
    copies, parts = _copies(cell, train, test)
    keys = jnp.stack([jax.random.key(seed) for seed in _seeds(cell)])
    num_starts = None if cell.same_start else cell.num_users
    params = initial_params(cell.model, keys, train["inputs"].shape[1:], num_starts)
    simulation = simulation_of(
        cell.algorithms,
        cell.model,
        cell.protocol,
        cell.num_copies,
        cell.compression,
        cell.augment,
        cell.optimizer,
        cell.same_start,
    )
    with run.progress(cell.name, cell.protocol.num_rounds) as task:
        done = 0

        def on_chunk(rounds: int) -> None:
            nonlocal done
            task.advance(rounds - done)
            done = rounds

        simulated = simulation.run(
            params,
            dacfl.stack_copies(copies),
            keys,
            checkpoints=Checkpoints(folder, keep=1) if cell.protocol.chunk_periods else None,
            on_chunk=on_chunk,
        )
    arrays = {
        f"{name}/{metric}": np.asarray(values)
        for name, metrics in simulated.history.items()
        for metric, values in metrics.items()
    }
    arrays |= _final_accuracies(cell, simulated, everything)
    matrices = [dacfl.repaired_matrices(c.network, cell.protocol.num_rounds) for c in copies]
    one_model = jax.tree.map(lambda x: x[0], params)
    if num_starts:
        one_model = jax.tree.map(lambda x: x[0], one_model)
        axis = dacfl.UserAxis(cell.num_users)
        arrays["start"] = np.asarray(jax.vmap(lambda p: disagreement(p, axis))(params))
    return arrays | {
        "sigmas": np.stack([dacfl.sigma_of(m) for m in matrices]),
        "degrees": np.stack([dacfl.links_in_use(m) for m in matrices]),
        "matrix": matrices[0][-1],
        "histogram": label_histogram(parts, train["labels"], NUM_CLASSES),
        "message": np.float64(
            dacfl.message_numbers(one_model, cell.compression or dacfl.CompressionConfig())
        ),
    }


def _seeds(cell: Cell) -> list[int]:
    return [cell.seed + r for _ in cell.lr_scales for r in range(cell.repeats)]


def _copies(cell: Cell, train, test):
    """The data of every copy, and the first copy's partition."""
    train, test = jax.tree.map(jnp.asarray, (train, test))
    copies, first_parts = [], None
    scales = [scale for scale in cell.lr_scales for _ in range(cell.repeats)]
    for seed, scale in zip(_seeds(cell), scales, strict=True):
        parts = _parts(cell, np.asarray(train["labels"]), seed)
        copies.append(dacfl.federated_data(train, parts, _network(cell, seed), test, scale))
        first_parts = first_parts or parts
    return copies, first_parts


def _parts(cell: Cell, labels: np.ndarray, seed: int) -> list[np.ndarray]:
    if cell.partition_file is not None:
        parts = dacfl.read_partition(cell.partition_file, len(labels))
        require(
            len(parts) == cell.num_users,
            f"{cell.partition_file} is for {len(parts)} users, --num-users is {cell.num_users}",
        )
        return parts
    generator = np.random.Generator(np.random.PCG64([seed, 1]))
    return dacfl.draw_partition(labels, cell.num_users, cell.partition, generator, NUM_CLASSES)


def _network(cell: Cell, seed: int) -> dacfl.Network:
    given = {}
    is_apart = cell.network.ensure == "none"
    if cell.weights_file is not None:
        given["matrices"] = dacfl.read_mixing(
            cell.weights_file, cell.num_users, allow_disconnected=is_apart
        )
    elif cell.edges_file is not None:
        given["adjacency"] = dacfl.read_adjacency(
            cell.edges_file, cell.num_users, allow_isolated=is_apart
        )
    return dacfl.draw_network(cell.network, cell.num_users, seed, cell.protocol.num_rounds, **given)


@functools.cache
def model_of(name: str | ConvNetConfig):
    """The network of that name or configuration; on a CPU convolutions go via patches."""
    config = SMALL_MLP if name == "mlp_16" else dacfl.MODELS.get(name, name)
    if isinstance(config, ConvNetConfig) and jax.default_backend() == "cpu":
        config = dataclasses.replace(config, via_patches=True)
    return dacfl.build(config)


def user_map_of(name: str | ConvNetConfig) -> str:
    """How users share a device: one after the other where a batch of convolutions is slow."""
    is_conv = isinstance(dacfl.MODELS.get(name, name), ConvNetConfig)
    return "map" if is_conv and jax.default_backend() == "cpu" else "vmap"


def crop_and_flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """CIFAR-10's usual augmentation: a crop after padding by 4, and a flip."""
    pairs = jax.vmap(jax.random.split)(keys)
    return random_flip(pairs[:, 0], random_crop(pairs[:, 1], images, 4))


@functools.cache
def simulation_of(
    algorithms: tuple[tuple[str, dacfl.Algorithm], ...],
    model: str,
    protocol: dacfl.Protocol,
    num_copies: int | None,
    compression: dacfl.CompressionConfig | None = None,
    augment: bool = False,
    optimizer: str = "sgd",
    same_start: bool = True,
) -> dacfl.Simulation:
    """The compiled simulation, shared by all cells of these settings."""
    module = model_of(model)
    loss_fn = dacfl.classification_loss(module.apply)
    return dacfl.Simulation(
        dict(algorithms),
        with_augmentation(loss_fn, crop_and_flip) if augment else loss_fn,
        protocol,
        evaluate=evaluation_of(model),
        tx=OPTIMIZERS[optimizer](),
        compression=compression,
        user_map=user_map_of(model),
        per_user_init=not same_start,
        num_copies=num_copies,
    )


@functools.cache
def evaluation_of(model: str) -> periods.Evaluate:
    """Accuracy of each user, altogether and on each class."""
    apply_fn, over_users = model_of(model).apply, user_map_of(model)

    def evaluate(models, model_state, test):
        def of_user(params, state):
            logits = apply_fn({"params": params, **state}, test["inputs"])
            accuracy = dacfl.user_accuracy(logits[None], test["labels"])[0]
            return {
                "accuracy": accuracy,
                "class_accuracy": dacfl.class_accuracy(logits[None], test["labels"])[0],
            }

        if over_users == "map":
            return jax.lax.map(lambda given: of_user(*given), (models, model_state))
        return jax.vmap(of_user)(models, model_state)

    return evaluate


@functools.cache
def _compiled_evaluation(model: str):
    return jax.jit(evaluation_of(model))


def _final_accuracies(cell: Cell, simulated, test) -> dict[str, np.ndarray]:
    """Every read-out's accuracies on the whole test set, after the last round; [copies, N]."""
    evaluate = _compiled_evaluation(cell.model)
    test = jax.tree.map(jnp.asarray, test)
    found: dict[str, list[np.ndarray]] = {}
    for name, state in simulated.states.items():
        for copy in range(cell.num_copies):
            omega = jax.tree.map(lambda x, copy=copy: x[copy], state.omega)
            # The mean model goes last, as one user more.
            everyone = jax.tree.map(lambda x: np.concatenate([x, x.mean(axis=0)[None]]), omega)
            accuracy = np.asarray(evaluate(everyone, {}, test)["accuracy"])
            found.setdefault(f"{name}/final_omega", []).append(accuracy[:-1])
            found.setdefault(f"{name}/final_mean", []).append(np.full(cell.num_users, accuracy[-1]))
            if state.tracker is not None:
                tracker = jax.tree.map(lambda x, copy=copy: x[copy], state.tracker)
                accuracy = np.asarray(evaluate(tracker, {}, test)["accuracy"])
                found.setdefault(f"{name}/final_x", []).append(accuracy)
    return {name: np.stack(values) for name, values in found.items()}


def initial_params(
    model: str | ConvNetConfig,
    keys: jax.Array,
    shape: tuple[int, ...],
    num_users: int | None = None,
) -> Any:
    """One initialisation a copy, leaves [copies, ...], or with `num_users` one a user of each."""
    module = model_of(model)
    example = jnp.zeros((1, *shape))

    def init(key):
        return module.init(key, example)["params"]

    if num_users:
        keys = jax.vmap(lambda key: jax.random.split(key, num_users))(keys)
        return jax.jit(jax.vmap(jax.vmap(init)))(keys)
    return jax.jit(jax.vmap(init))(keys)


@functools.lru_cache(maxsize=2)
def examples(dataset: str, num_train: int, num_test: int, data_dir: Path | None):
    """(train, test for the evaluations on the way, whole test), standardised."""
    if dataset == "generated_digits":
        images, labels = generated_digits("train", num_examples=num_train or None)
        mean, std = images.mean() / 255, images.std() / 255
        train = examples_of(images, labels, mean, std)
        test = examples_of(*generated_digits("test"), mean, std)
    else:
        train, test = dacfl.image_set(dataset, num_train or None, None, data_dir)
    return train, {name: x[:num_test] for name, x in test.items()}, test
