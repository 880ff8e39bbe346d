"""The order of things: which cells are run, and what is made of them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from experiments.dacfl import Cifar, Config, theory
from experiments.dacfl.cells import (
    OPTIMIZERS,
    Cell,
    CellResult,
    network_config,
    partition_config,
    protocol_of,
    run_cell,
)
from lab.errors import require
from lab.papers import dacfl
from lab.papers.dacfl.mixing import METHODS
from lab.papers.dacfl.network import ONE_PEER
from lab.papers.dacfl.partition import SCHEMES
from lab.papers.dacfl.topology import require_known

NETWORKS = ("dense", "sparse", "file", ONE_PEER, *dacfl.TOPOLOGIES)


@dataclasses.dataclass
class Findings:
    """All measurements of a run.

    Attributes: grid, by (data set, partition, network); extras, regimes and ablations by title;
    links, by chance of loss; outage; rates and sizes, by learning rate and number of users; cifar;
    theory, the numbers of `theory.measure`.
    """

    grid: dict[tuple[str, str, str], CellResult]
    regimes: dict[str, CellResult]
    ablations: dict[str, tuple[str, str, CellResult]]
    links: dict[float, CellResult]
    outage: CellResult | None
    rates: CellResult | None
    sizes: dict[int, CellResult]
    cifar: CellResult | None
    theory: dict[str, Any]


def check(config: Config) -> None:
    """Refuses a configuration whose parts do not exist, before anything is measured."""
    for partition in config.partitions:
        require_known(partition, (*SCHEMES, "file"), "partition")
        partition_config(config, partition)
    for name in config.networks:
        kind, every, rounds = name.partition("_every_")
        require_known(kind, NETWORKS, "network")
        require(
            not every or (rounds.isdecimal() and int(rounds) >= 1),
            f"network {name!r}: rounds between redraws must be a whole number of at least 1",
        )
        network_config(config, name)
    for name in config.algorithms:
        require_known(name, dacfl.ALGORITHMS, "algorithm")
    require_known(config.model, (*dacfl.MODELS, "mlp_16"), "model")
    require_known(config.graph.mixing, METHODS, "mixing method")
    require_known(config.optimizer, OPTIMIZERS, "optimizer")
    require("dacfl" in config.algorithms, "dacfl must be among the algorithms: it is the subject")
    require(config.repeats >= 1, f"repeats must be at least 1, got {config.repeats}")
    graph = config.graph
    files = [path for path in (graph.edges_file, graph.weights_file) if path is not None]
    asks = any(name.startswith("file") for name in config.networks)
    require(
        len(files) == int(asks),
        "the network `file` needs one of --graph.edges-file and --graph.weights-file, and nothing "
        "else takes them",
    )
    require(
        (config.split.file is not None) == ("file" in config.partitions),
        "the partition `file` needs --split.file, and nothing else takes it",
    )


def wants_shapes_only(config: Config) -> bool:
    """Whether this machine is too small for what the configuration asks."""
    if config.shapes_only is not None:
        return config.shapes_only
    is_large = config.model in ("fedavg_cnn", "cifar_cnn") and config.num_train == 0
    return is_large and jax.default_backend() == "cpu"


def measure(config: Config, run: Any) -> Findings:
    """Runs every cell of the configuration."""
    grid = {
        (dataset, partition, network): run_cell(grid_cell(config, dataset, partition, network), run)
        for dataset in config.datasets
        for partition in config.partitions
        for network in config.networks
    }
    extras = config.extras
    regimes = {t: run_cell(c, run) for t, c in regime_cells(config)} if extras.regimes else {}
    varied = ablation_cells(config) if extras.ablations else ()
    return Findings(
        grid=grid,
        regimes=regimes,
        ablations={title: (name, r, run_cell(cell, run)) for title, name, r, cell in varied},
        links={p: run_cell(link_cell(config, p), run) for p in extras.link_losses},
        outage=run_cell(outage_cell(config), run) if extras.outage else None,
        rates=run_cell(rates_cell(config), run) if extras.rates else None,
        sizes={n: run_cell(size_cell(config, n), run) for n in extras.sizes},
        cifar=run_cell(cifar_cell(config, config.cifar), run) if config.cifar.num_train else None,
        theory=theory.measure(run),
    )


def rivals(
    config: Config, names: Iterable[str], **dacfl_options: Any
) -> tuple[tuple[str, dacfl.Algorithm], ...]:
    """Algorithms by name with their options, and other ones for DACFL."""
    variants = config.variants
    gossip = {"gradient_at": variants.cdsgd_gradient_at, "momentum": variants.momentum}
    options = {
        "dacfl": {
            "gradient_at": variants.dacfl_gradient_at,
            "reset_every": variants.reset_every,
            **dacfl_options,
        },
        "cdsgd": gossip,
        "dpsgd": gossip,
    }
    return tuple((name, dacfl.algorithm(name, **options.get(name, {}))) for name in names)


def grid_cell(config: Config, dataset: str, partition: str, network: str) -> Cell:
    """A cell of the grid. Gradient tracking takes part where users take one local step."""
    takes_one_step = config.local_steps == 1 and config.local_epochs == 0
    names = [name for name in config.algorithms if name != "dsgt" or takes_one_step]
    is_file = network.startswith("file")
    return Cell(
        name=f"{dataset}-{partition}-{network}",
        dataset=dataset,
        partition=partition_config(config, partition),
        network=network_config(config, network),
        protocol=protocol_of(config),
        algorithms=rivals(config, names),
        num_users=config.num_users,
        model=config.model,
        num_train=config.num_train,
        num_test=config.num_test,
        repeats=config.repeats,
        seed=config.seed,
        compression=compression_of(config),
        optimizer=config.optimizer,
        same_start=config.same_start,
        edges_file=config.graph.edges_file if is_file else None,
        weights_file=config.graph.weights_file if is_file else None,
        partition_file=config.split.file if partition == "file" else None,
    )


def compression_of(config: Config) -> dacfl.CompressionConfig | None:
    """How messages are compressed; None where they are not."""
    given = dacfl.CompressionConfig(**dataclasses.asdict(config.messages))
    return None if given.kind == "none" else given


def _extra(
    config: Config,
    name: str,
    network: str = "sparse",
    network_changes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Cell:
    """A cell beside the grid: the first data set, shards, DACFL and CDSGD unless said otherwise."""
    cell = grid_cell(config, config.datasets[0], "shards", network)
    changed = dataclasses.replace(cell.network, **network_changes or {})
    given = {"repeats": config.extras.repeats, "algorithms": rivals(config, ("dacfl", "cdsgd"))}
    return dataclasses.replace(cell, name=name, network=changed, **given | changes)


def regime_cells(config: Config) -> list[tuple[str, Cell]]:
    """Where the claims end: other noise, other numbers of local steps, faster changes."""
    everyone = rivals(config, config.algorithms)
    without_dsgt = rivals(config, (n for n in config.algorithms if n != "dsgt"))

    def cell(name, network="sparse", algorithms=everyone, **protocol):
        protocol = protocol_of(config, **protocol)
        return _extra(config, name, network, algorithms=algorithms, protocol=protocol)

    return [
        (
            "B = 100, E = 5, T = 100",
            cell("e5", algorithms=without_dsgt, local_steps=5, num_rounds=100),
        ),
        (
            "B = 100, E = 20, T = 25",
            cell("e20", algorithms=without_dsgt, local_steps=20, num_rounds=25, log_every=5),
        ),
        ("B = 20, lr .01, T = 300", cell("b20-lr01", batch_size=20, lr0=0.01, num_rounds=300)),
        ("B = 20, lr .05, T = 300", cell("b20", batch_size=20, num_rounds=300)),
        (
            "B = 20, E = 10, T = 60",
            cell("b20-e10", algorithms=without_dsgt, batch_size=20, local_steps=10, num_rounds=60),
        ),
        ("redrawn every round", cell("every-1", "sparse_every_1")),
    ]


def ablation_cells(config: Config) -> list[tuple[str, str, str, Cell]]:
    """(title, algorithm, read-out, cell): one thing changed at a time."""
    plain = _extra(config, "plain", algorithms=rivals(config, ("dacfl",)))
    slower = protocol_of(config, lr0=config.learning_rate / 10)
    momentum = (("cdsgd", dacfl.algorithm("cdsgd", momentum=0.9)),)

    def only(name: str, *algorithms, **changes: Any) -> Cell:
        return _extra(config, name, algorithms=algorithms, **changes)

    reset = rivals(config, ("dacfl",), reset_every=35)  # no evaluation falls on a reset
    local = rivals(config, ("dacfl",), gradient_at="local")
    modern = only("modern", *rivals(config, ("dfedavg", "exact_diffusion")))
    ends = only("ends", *rivals(config, ("local", "centralised")))
    rows = [
        ("sparse, B = 100, dacfl", "dacfl", "x", plain),
        ("the same read out at omega", "dacfl", "omega", plain),
        ("x reset every 35 rounds", "dacfl", "x", only("reset-35", *reset)),
        ("gradient at the local model", "dacfl", "x", only("local", *local)),
        (
            "cdsgd, momentum .9, lr / 10",
            "cdsgd",
            "omega",
            only("momentum", *momentum, protocol=slower),
        ),
        ("DFedAvg", "dfedavg", "omega", modern),
        ("exact diffusion", "exact_diffusion", "omega", modern),
        ("local training only", "local", "omega", ends),
        ("all data in one place", "centralised", "omega", ends),
    ]
    for title, cell in _changed_networks(config) + _changed_data_and_messages(config):
        rows.append((f"{title}, dacfl", "dacfl", "x", cell))
        rows.append((f"{title}, cdsgd", "cdsgd", "omega", cell))
    return rows


def _changed_networks(config: Config) -> list[tuple[str, Cell]]:
    sparse = network_config(config, "sparse")
    changes = {
        f"psi = {psi:g}": {"topology": dataclasses.replace(sparse.topology, psi=psi)}
        for psi in (0.25, 1.0)
    }
    methods = ("random_symmetric", "lazy_metropolis", "max_degree", "best_constant")
    changes |= {f"W {method}": {"mixing": dacfl.MixingConfig(method)} for method in methods}
    return [
        (
            title,
            _extra(
                config,
                title.replace(" = ", "-").replace(" ", "-"),
                network_changes=change,
            ),
        )
        for title, change in changes.items()
    ]


def _changed_data_and_messages(config: Config) -> list[tuple[str, Cell]]:
    cells = []
    for alpha in (0.1, 1.0, 100.0):
        partition = dacfl.PartitionConfig("dirichlet", alpha=alpha)
        cell = _extra(config, f"alpha-{alpha:g}", partition=partition)
        cells.append((f"Dirichlet {alpha:g}", cell))
    for kind, step_size in (("top_k", 0.4), ("quantise", 1.0)):
        compression = dacfl.CompressionConfig(kind, step_size=step_size)
        cells.append((f"messages {kind}", _extra(config, kind, compression=compression)))
    return cells


def link_cell(config: Config, loss: float) -> Cell:
    """Links down with a chance, redrawn every round."""
    return _failing(config, f"links-{loss:g}", link_loss=loss)


def outage_of(config: Config) -> tuple[int, int, int]:
    """(user, first round, number of rounds) of the absence: the middle third."""
    third = config.num_rounds // 3
    return 0, third, third


def outage_cell(config: Config) -> Cell:
    """User 0 is offline for the middle third."""
    return _failing(config, "outage", outages=(*config.failures.outages, outage_of(config)))


def _failing(config: Config, name: str, **changes: Any) -> Cell:
    cell = grid_cell(config, config.datasets[0], "shards", "sparse")
    failures = dataclasses.replace(cell.network.failures, **changes)
    return _extra(config, name, network_changes={"failures": failures}, algorithms=cell.algorithms)


def rates_cell(config: Config) -> Cell:
    """Learning rates side by side in one call."""
    scales = tuple(rate / config.learning_rate for rate in config.extras.rates)
    only = rivals(config, ("dacfl",))
    return _extra(config, "rates", algorithms=only, lr_scales=scales)


def size_cell(config: Config, num_users: int) -> Cell:
    """Another number of users on the same training set, with batches small enough for each."""
    examples = config.num_train or 60_000
    protocol = protocol_of(
        config, batch_size=min(config.batch_size, examples // max(config.extras.sizes))
    )
    only = rivals(config, ("dacfl",))
    return _extra(
        config, f"size-{num_users}", algorithms=only, num_users=num_users, protocol=protocol
    )


def cifar_cell(config: Config, cifar: Cifar) -> Cell:
    """The one CIFAR-10 cell: shards on the fixed sparse network."""
    return Cell(
        name="cifar10",
        dataset="cifar10",
        partition=partition_config(config, "shards"),
        network=network_config(config, "sparse"),
        protocol=protocol_of(
            config,
            num_rounds=cifar.num_rounds,
            batch_size=cifar.batch_size,
            log_every=cifar.log_every,
        ),
        algorithms=rivals(config, config.algorithms),
        num_users=config.num_users,
        model=cifar.model,
        num_train=cifar.num_train,
        num_test=config.num_test,
        repeats=cifar.repeats,
        seed=config.seed,
        augment=cifar.augment,
    )
