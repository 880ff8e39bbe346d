"""DACFL: decentralised federated learning by dynamic average consensus.

    python -m experiments.dacfl                       # generated digits, about a minute
    python -m experiments.dacfl bench                 # MNIST, Fashion-MNIST, CIFAR-10
    python -m experiments.dacfl bench --num-users 20 --datasets mnist --local-steps 5
    python -m experiments.dacfl quick --networks erdos_renyi_every_5 torus --failures.link-loss 0.1
    python -m experiments.dacfl quick --networks file --graph.edges-file my.csv --num-users 12
    python -m experiments.dacfl bench --coordinator host:port --num-processes 2 --process-id 0

The science is in `lab.papers.dacfl`; here are presets, the order of things, claims and pictures.
"""

import dataclasses

from experiments.dacfl.options import Failures, Graph, Messages, Split, Variants

TITLE = "DACFL (decentralised federated learning)"
SUMMARY = (
    "Users on a graph train without a server; a dynamic average consensus lets each of them track "
    "the network's mean model."
)
NEEDS = {
    "bench": ("mnist", "fashion_mnist", "cifar10"),
    "paper": ("mnist", "fashion_mnist", "cifar10"),
}


@dataclasses.dataclass(frozen=True)
class Extras:
    """What is varied beside the grid, on the first data set, with shards on the sparse network."""

    regimes: bool = True
    """Other local steps, batch sizes, rates and redraws: where the claims end."""
    ablations: bool = True
    """Weights, density, partition, read-out, compression, one at a time."""
    link_losses: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5)
    """Chances that a link is down in a round."""
    outage: bool = True
    """One user absent for the middle third of a run."""
    rates: tuple[float, ...] = (0.01, 0.02, 0.05)
    """Learning rates whose speed is compared."""
    sizes: tuple[int, ...] = (5, 10, 20, 40)
    """Numbers of users whose speed is compared, on the same data altogether."""
    repeats: int = 3
    """Seeds of each."""


@dataclasses.dataclass(frozen=True)
class Cifar:
    """The CIFAR-10 cell; vmapped convolutions are slow on a CPU, so there is one only."""

    num_train: int = 5000
    """Training images; 0 leaves the cell out."""
    model: str = "small_cnn"
    """One of lab.papers.dacfl.MODELS."""
    batch_size: int = 100
    """B."""
    num_rounds: int = 100
    """T."""
    log_every: int = 20
    """Rounds between two evaluations: one costs as much as ten rounds of training."""
    repeats: int = 2
    """Seeds."""
    augment: bool = False
    """Random crops (padding 4) and flips."""


@dataclasses.dataclass(frozen=True)
class Config:
    """DACFL and its rivals on one network after another."""

    datasets: tuple[str, ...] = ("mnist", "fashion_mnist")
    """Data sets of the grid: mnist, fashion_mnist, cifar10 or generated_digits."""
    num_train: int = 10_000
    """Training examples, the first so many; 0 for all."""
    num_test: int = 1000
    """Test examples of the evaluations during training; the last one takes all."""
    partitions: tuple[str, ...] = ("shards", "iid")
    """How the examples are divided: shards, iid, dirichlet, or file."""
    networks: tuple[str, ...] = ("dense", "sparse", "sparse_every_10", "ring")
    """Networks of the grid: dense, sparse, ring, path, star, torus, hypercube, exponential,
    erdos_renyi, watts_strogatz, one_peer_exponential or file; with _every_k behind the name,
    redrawn every k rounds."""
    algorithms: tuple[str, ...] = ("dacfl", "cdsgd", "dsgt", "fedavg")
    """What is run: these, dpsgd, dfedavg, exact_diffusion, local or centralised. D-PSGD is also
    read out of cdsgd, whose updates it shares."""
    num_users: int = 10
    """N."""
    model: str = "mlp"
    """One of lab.papers.dacfl.MODELS."""
    num_rounds: int = 200
    """T."""
    batch_size: int = 100
    """B."""
    local_steps: int = 1
    """E, local steps a round."""
    local_epochs: int = 0
    """Instead of E: so many passes of each user over its own examples a round."""
    optimizer: str = "sgd"
    """The users' own: sgd, momentum or adam; its state is never mixed."""
    same_start: bool = True
    """Whether all users begin with the same model."""
    learning_rate: float = 0.05
    """At round 0."""
    decay: float = 0.995
    """Factor on the learning rate every `decay_every` rounds."""
    decay_every: int = 10
    """Rounds between two decays."""
    log_every: int = 10
    """Rounds between two evaluations."""
    checkpoint_every: int = 5
    """Evaluations between two checkpoints within a cell."""
    repeats: int = 5
    """Seeds: each is an initialisation, a partition, a network and batches, the same for all."""
    graph: Graph = dataclasses.field(default_factory=Graph)
    """Details of the networks."""
    split: Split = dataclasses.field(default_factory=Split)
    """Details of the partitions."""
    failures: Failures = dataclasses.field(default_factory=Failures)
    """What goes wrong."""
    messages: Messages = dataclasses.field(default_factory=Messages)
    """Compression."""
    variants: Variants = dataclasses.field(default_factory=Variants)
    """Options of the algorithms."""
    extras: Extras = dataclasses.field(default_factory=Extras)
    """What is varied beside the grid."""
    cifar: Cifar = dataclasses.field(default_factory=Cifar)
    """The CIFAR-10 cell."""
    seed: int = 0
    """First seed; repeat r uses seed + r."""
    shapes_only: bool | None = None
    """Check shapes, sizes and one reduced step instead of training; by default without an
    accelerator where the configuration is `paper`'s."""


NOTHING = Extras(regimes=False, ablations=False, link_losses=(), outage=False, rates=(), sizes=())
PRESETS = {
    "quick": Config(
        datasets=("generated_digits",),
        num_train=2000,
        num_test=500,
        networks=("sparse", "dense"),
        num_users=8,
        model="mlp_16",
        num_rounds=150,
        batch_size=50,
        learning_rate=0.1,
        repeats=3,
        checkpoint_every=0,
        extras=dataclasses.replace(NOTHING, link_losses=(0.0, 0.3), repeats=3),
        cifar=Cifar(num_train=0),
    ),
    "bench": Config(),
    "paper": Config(
        datasets=("mnist", "fashion_mnist"),
        num_train=0,
        num_test=10_000,
        networks=("dense", "sparse", "sparse_every_10", "sparse_every_1", "ring"),
        model="fedavg_cnn",
        num_rounds=1000,
        log_every=50,
        extras=dataclasses.replace(Extras(), sizes=(5, 10, 20, 40, 100)),
        cifar=Cifar(num_train=50_000, model="cifar_cnn", num_rounds=1000, log_every=50, repeats=5),
    ),
}


def main(config: Config, run):
    """Runs the study and judges the claims; returns a `lab.report.Result`."""
    from experiments.dacfl.report import study_result

    return study_result(config, run)


def speed_cases():
    """Rounds at 10, 50, 100 and 1,000 users: together, and as a Python loop over users."""
    from experiments.dacfl.speed import cases

    return cases()
