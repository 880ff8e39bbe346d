"""A small graph with a bias built in, for trying things without any file."""

import numpy as np

from lab.data.graphs import NodeDataset, clean_edges, from_arrays
from lab.errors import require


def biased_graph(
    seed: int = 0,
    *,
    num_nodes: int = 600,
    num_features: int = 10,
    mean_degree: float = 8.0,
    base_rates: tuple[float, float] = (0.35, 0.65),
    leak: float = 1.0,
) -> NodeDataset:
    """People of two groups whose outcomes differ, in a graph where like meets like.

    A third of the features speaks of the label, a third of the group, the rest of nothing; the
    first is the group itself. Three edges in four join people of the same label and, as often, of
    the same group, so a graph network learns the group's base rate along with the label.

    Args:
      base_rates: P(y = 1) in group 0 and group 1.
      leak: how far the features tell the groups apart, in standard deviations.
    Returns: a data set with a split of 40 / 20 / 40 %.
    """
    require(
        num_nodes >= 50 and num_features >= 4,
        f"num_nodes={num_nodes}, num_features={num_features}; accepted: 50 and 4 or more",
    )
    generator = np.random.Generator(np.random.PCG64(seed))
    sensitive = (generator.random(num_nodes) < 0.4).astype(np.int32)
    labels = (generator.random(num_nodes) < np.array(base_rates)[sensitive]).astype(np.int32)
    features = generator.normal(size=(num_nodes, num_features))
    third = num_features // 3
    features[:, 1 : 1 + third] += 0.8 * (2 * labels - 1)[:, None]
    features[:, 1 + third : 1 + 2 * third] += leak * (sensitive - 0.5)[:, None]
    features[:, 0] = sensitive
    order = generator.permutation(num_nodes)
    masks = {}
    cuts = np.split(order, [int(0.4 * num_nodes), int(0.6 * num_nodes)])
    for part, nodes in zip(("train", "val", "test"), cuts, strict=True):
        masks[f"{part}_mask"] = np.zeros(num_nodes, bool)
        masks[f"{part}_mask"][nodes] = True
    return from_arrays(
        "generated",
        features,
        labels,
        _edges(generator, labels, sensitive, round(num_nodes * mean_degree / 2)),
        num_classes=2,
        sensitive=sensitive,
        feature_names=("sensitive", *(f"x{i}" for i in range(1, num_features))),
        **masks,
    )


def _edges(generator, labels, sensitive, count: int) -> np.ndarray:
    source = generator.integers(0, len(labels), count)
    target = generator.integers(0, len(labels), count)
    for alike in (labels, sensitive):
        # Of the edges that join unlike ends, half are sent elsewhere, at random.
        unlike = (alike[source] != alike[target]) & (generator.random(count) < 0.5)
        for value in (0, 1):
            moved = unlike & (alike[source] == value)
            target[moved] = generator.choice(np.flatnonzero(alike == value), moved.sum())
    pairs = np.stack([source, target])[:, source != target]
    pairs = np.unique(np.sort(pairs, axis=0), axis=1)
    both = np.concatenate([pairs, pairs[::-1]], axis=1)
    return clean_edges(both, len(labels), name="generated")[0]
