"""What decides the outcome of a whole run of the method, and the data as the run sees it."""

import dataclasses
from typing import Literal

import numpy as np

from lab.data.graphs import NodeDataset, row_normalise
from lab.errors import require
from lab.papers.graph_unlearning.aggregation import LBAggrConfig
from lab.papers.graph_unlearning.data import one_hot_degree, split_nodes, thin_edges
from lab.papers.graph_unlearning.embeddings import EMBEDDINGS, EmbeddingKind
from lab.papers.graph_unlearning.models import MODELS
from lab.papers.graph_unlearning.partition import METHODS, PartitionOptions
from lab.papers.graph_unlearning.training import TrainingConfig, training_config

WHOLE_GRAPH = 2**30  # no shard has as many nodes
FEATURES = ("row_normalised", "raw", "one_hot_degree")
AGGREGATORS = ("mean", "mean_probs", "majority", "lbaggr")


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Everything that decides what `fit` makes of a data set."""

    model: str = "gcn"
    """One of `models.MODELS`: gcn, gat, sage, gin, mlp, full_gcn, full_gat, full_gin."""
    num_shards: int = 20
    """S. 1 trains from scratch."""
    method: str = "blpa"
    """One of `partition.METHODS`."""
    partition: PartitionOptions = dataclasses.field(default_factory=PartitionOptions)
    """Options of the partition method."""
    embedding: EmbeddingKind = "sage_logits"
    """What the k-means partitioners see of a node."""
    official_index_bug: bool = False
    """Take positions for node ids, as the released BEKM does; leaks test labels (warns)."""
    aggregator: Literal["mean", "mean_probs", "majority", "lbaggr"] = "lbaggr"
    """How shard models' posteriors become one."""
    lbaggr: LBAggrConfig = dataclasses.field(default_factory=LBAggrConfig)
    """Fitting of the learned aggregator."""
    lbaggr_nodes: int | float | None = 1000
    """Train nodes it is fitted on: a number, a share, or None for all."""
    features: Literal["row_normalised", "raw", "one_hot_degree"] = "row_normalised"
    """Rows divided by their sum (the citation graphs), as they are (Coauthor), or degrees."""
    test_ratio: float = 0.2
    """Share of the nodes held out."""
    split_seed: int = 100
    """Of the split; the official code fixes it."""
    ratio_deleted_edges: float = 0.0
    """Share of the edges deleted beforehand."""
    use_test_neighbours: bool = True
    """Whether test nodes are classified with their edges to train nodes and each other."""
    num_epochs: int = 100
    """Passes over a shard's train nodes."""
    batch_size: int | None = None
    """Train nodes a step; None: 512, and all of them for the MLP and the full-graph networks."""
    num_neighbours: tuple[int, ...] | None = None
    """Neighbours sampled a layer (the official code: 5, 5); None for all."""
    dropout_first_epoch_only: bool = False
    """The official code's evaluation-mode fault."""
    seed: int = 0
    """Of partition, initialisation, dropout and aggregator."""

    def __post_init__(self) -> None:
        choices = {
            "model": tuple(MODELS),
            "method": METHODS,
            "embedding": EMBEDDINGS,
            "aggregator": AGGREGATORS,
            "features": FEATURES,
        }
        for name, accepted in choices.items():
            value = getattr(self, name)
            require(value in accepted, f"{name} is {value!r}; accepted: {', '.join(accepted)}")

    def training(self, num_classes: int) -> TrainingConfig:
        """How each shard's model is trained."""
        return training_config(
            self.model,
            num_classes,
            num_epochs=self.num_epochs,
            batch_size=self.batch_size or official_batch_size(self.model),
            num_neighbours=self.num_neighbours,
            dropout_first_epoch_only=self.dropout_first_epoch_only,
        )


def official_batch_size(model: str) -> int:
    """Train nodes a step: 512 in the batch networks, all in the MLP and the full-graph ones."""
    return WHOLE_GRAPH if model == "mlp" or model.startswith("full_") else 512


def prepare_features(dataset: NodeDataset, kind: str) -> np.ndarray:
    """The features that models see (section 2): float32 [N, F']."""
    if kind == "one_hot_degree":
        return one_hot_degree(dataset.edge_index, dataset.num_nodes)
    return row_normalise(dataset.features) if kind == "row_normalised" else dataset.features


def prepare_graph(dataset: NodeDataset, config: EnsembleConfig) -> tuple[np.ndarray, ...]:
    """Split and edge thinning (sections 1 and 3).

    Returns: edge_index int32 [2, M'], train_ids and test_ids int32.
    """
    train_ids, test_ids = split_nodes(dataset.num_nodes, config.test_ratio, config.split_seed)
    edges = dataset.edge_index
    if config.ratio_deleted_edges:
        rng = np.random.RandomState(config.seed)
        edges = thin_edges(edges, config.ratio_deleted_edges, rng)
    return edges, train_ids, test_ids
