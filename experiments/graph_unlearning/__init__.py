"""Graph unlearning (GraphEraser): partitions, shard models, aggregation, deletion.

    python -m experiments.graph_unlearning            # a generated graph, about a minute
    python -m experiments.graph_unlearning bench      # Cora, Citeseer, Pubmed
    python -m experiments.graph_unlearning bench --datasets cora --repeats 3

The science is in `lab.papers.graph_unlearning`; here are presets, the order of things, claims and
pictures.
"""

import dataclasses

TITLE = "Graph unlearning (GraphEraser)"
SUMMARY = (
    "Cuts a training graph into shards with a model each, so that deleting a node or an edge "
    "retrains one shard and nothing else."
)
NEEDS = {"bench": ("cora", "citeseer", "pubmed"), "paper": ("coauthor_cs", "coauthor_physics")}


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """What is varied on the first data set, with the first model."""

    num_shards: tuple[int, ...] = (5, 10, 20, 40)
    """Numbers of shards S."""
    shard_size_deltas: tuple[float, ...] = (0.0, 0.005, 0.05, 0.2)
    """Slack d of the balanced partition."""
    lbaggr_nodes: tuple[int | float | None, ...] = (1000, 0.1, None)
    """Nodes that the learned aggregator is fitted on: a number, a share, None for all."""
    edge_ratios: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    """Shares of the edges deleted before training."""
    deletions: tuple[int, ...] = (1, 10, 100)
    """Sizes of one deletion request."""
    repeats: int = 3
    """Repeats of each point."""


@dataclasses.dataclass(frozen=True)
class Config:
    """GraphEraser on citation graphs: every partition with every aggregator and model."""

    datasets: tuple[str, ...] = ("cora", "citeseer", "pubmed")
    """Data sets of the catalogue; the first is the one for sweeps and the attack."""
    models: tuple[str, ...] = ("gcn", "gin", "gat", "sage", "mlp")
    """Shard models on the first data set."""
    other_models: tuple[str, ...] = ("gcn", "gin")
    """Shard models on other data sets of up to `large` nodes."""
    large_models: tuple[str, ...] = ("gcn",)
    """Shard models on larger data sets."""
    large: int = 10_000
    """Nodes from which a data set counts as large."""
    methods: tuple[str, ...] = ("random", "blpa", "bekm")
    """Partitions that are trained, beside training from scratch."""
    num_shards: int = 20
    """Shards of a data set."""
    large_num_shards: int = 50
    """Shards of a large data set."""
    features: str = "row_normalised"
    """row_normalised, raw or one_hot_degree."""
    test_ratio: float = 0.2
    """Share of held-out nodes."""
    num_epochs: int = 100
    """Passes over a shard's train nodes."""
    num_neighbours: tuple[int, ...] | None = None
    """Neighbours sampled a layer; None for all (the official code: 5 5)."""
    dropout_first_epoch_only: bool = False
    """The official code's evaluation-mode fault."""
    official_bekm: bool = True
    """Show the released BEKM, whose shards leak test labels, beside the mended one."""
    repeats: int = 10
    """Partitions, initialisations and draws of each cell, trained in one compiled call."""
    slow_repeats: int = 3
    """The same for GAT and SAGE, and from scratch on large data sets: ten times the cost."""
    timed_shards: int = 20
    """Shards that are retrained one by one to time a request."""
    attack_requests: int = 50
    """Nodes unlearned for the membership attack."""
    sweeps: Sweeps = dataclasses.field(default_factory=Sweeps)
    """What is varied."""
    seed: int = 0
    """First seed; repeat r uses seed + r."""


PRESETS = {
    "quick": Config(
        datasets=("generated_citations",),
        models=("gcn", "mlp"),
        num_shards=8,
        num_epochs=60,
        repeats=3,
        official_bekm=False,
        timed_shards=8,
        attack_requests=20,
        sweeps=Sweeps(
            num_shards=(2, 4, 8),
            shard_size_deltas=(0.005, 0.2),
            lbaggr_nodes=(100, None),
            edge_ratios=(0.0, 0.6),
            deletions=(1, 10),
        ),
    ),
    "bench": Config(),
    "paper": Config(
        datasets=("coauthor_cs", "coauthor_physics"),
        models=("gcn", "gin", "gat", "sage", "mlp"),
        other_models=("gcn", "gin", "gat", "sage", "mlp"),
        large_models=("gcn", "gin", "gat", "sage", "mlp"),
        large_num_shards=30,
        features="raw",
        slow_repeats=10,
    ),
}


def main(config: Config, run):
    """Runs the study and judges the claims; returns a `lab.report.Result`."""
    from experiments.graph_unlearning.report import study_result

    return study_result(config, run)


def speed_cases():
    """Training of 20 Cora-sized shards: together, one at a time, and as a Python loop."""
    from experiments.graph_unlearning.speed import cases

    return cases()
