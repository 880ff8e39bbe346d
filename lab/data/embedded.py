"""Data sets that need no file: written down here, or generated from a seed."""

import numpy as np

from lab.data.graphs import NodeDataset, from_arrays
from lab.errors import require

# Friendships in a karate club (Zachary, 1977): for each member, the friends with a higher number.
_KARATE_FRIENDS = {
    0: (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31),
    1: (2, 3, 7, 13, 17, 19, 21, 30),
    2: (3, 7, 8, 9, 13, 27, 28, 32),
    3: (7, 12, 13),
    4: (6, 10),
    5: (6, 10, 16),
    6: (16,),
    8: (30, 32, 33),
    9: (33,),
    13: (33,),
    14: (32, 33),
    15: (32, 33),
    18: (32, 33),
    19: (33,),
    20: (32, 33),
    22: (32, 33),
    23: (25, 27, 29, 32, 33),
    24: (25, 27, 31),
    25: (31,),
    26: (29, 33),
    27: (33,),
    28: (31, 33),
    29: (32, 33),
    30: (32, 33),
    31: (32, 33),
    32: (33,),
}
_KARATE_INSTRUCTOR_SIDE = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 16, 17, 19, 21)

# Ten digits on a grid of 5 x 7 dots.
_DIGIT_DOTS = """
.###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###.
#...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...#
#..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#.
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .##..
"""


def karate_club() -> NodeDataset:
    """Zachary's karate club: 34 members, 78 friendships, the side each took when it split.

    Class 0 went with the instructor, class 1 with the officers. Features are one-hot member ids.
    """
    pairs = [(a, b) for a, friends in _KARATE_FRIENDS.items() for b in friends]
    edges = np.array(pairs, np.int32).T
    labels = np.ones(34, np.int32)
    labels[list(_KARATE_INSTRUCTOR_SIDE)] = 0
    both = np.concatenate([edges, edges[::-1]], axis=1)
    return from_arrays("karate_club", np.eye(34), labels, both)


def generated_citations(
    seed: int = 0,
    *,
    num_nodes: int = 1000,
    num_classes: int = 5,
    num_words: int = 200,
    mean_degree: float = 5.0,
    homophily: float = 0.85,
    words_per_node: int = 12,
    topic_share: float = 0.25,
) -> NodeDataset:
    """A citation-like graph: classes are communities, a node's words only hint at its class.

    A degree-corrected stochastic block model (Karrer & Newman, 2011) whose expected degrees follow
    a truncated Pareto law, with 0/1 bags of words as features: the neighbours say more about a
    class than the words, so graph networks beat networks that see the features alone.

    Args:
      seed: the same seed gives the same graph on every machine.
      mean_degree: neighbours a node has, on average, before repeated pairs are dropped.
      homophily: share of the edges that stay within a class.
      words_per_node: words drawn for each node.
      topic_share: share of the words drawn from the topic of the node's class.
    Returns: a data set whose split is 20 train nodes a class, 20 % of nodes val, the rest test.
    """
    require(
        num_nodes >= 40 * num_classes and num_words >= 2 * num_classes and num_classes >= 2,
        f"num_nodes={num_nodes}, num_words={num_words}, num_classes={num_classes}; accepted: at "
        "least 2 classes, 40 nodes a class, 2 words a class",
    )
    require(
        0 <= homophily <= 1 and 0 <= topic_share <= 1,
        f"homophily={homophily}, topic_share={topic_share}; accepted: 0 to 1",
    )
    generator = np.random.Generator(np.random.PCG64(seed))
    labels = generator.permutation(np.arange(num_nodes) % num_classes).astype(np.int32)
    edges = _block_model_edges(generator, labels, round(num_nodes * mean_degree / 2), homophily)
    features = _bags_of_words(generator, labels, num_words, words_per_node, topic_share)
    order = generator.permutation(num_nodes)
    rank_in_class = np.empty(num_nodes, np.int64)
    for label in range(num_classes):
        members = order[labels[order] == label]
        rank_in_class[members] = np.arange(len(members))
    train_mask = rank_in_class < 20
    val_mask = np.zeros(num_nodes, bool)
    val_mask[order[~train_mask[order]][: num_nodes // 5]] = True
    return from_arrays(
        "generated_citations",
        features,
        labels,
        np.concatenate([edges, edges[::-1]], axis=1),
        num_classes=num_classes,
        train_mask=train_mask,
        val_mask=val_mask,
        test_mask=~train_mask & ~val_mask,
    )


def generated_digits(
    split: str = "train", *, seed: int = 0, num_examples: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy, shifted 8 x 8 pictures of the ten digits.

    Args:
      split: "train" (default 2,000 pictures) or "test" (500); drawn independently.
    Returns: (images uint8 [N, 8, 8, 1], labels int32 [N]), classes balanced to within one.
    """
    sizes = {"train": 2000, "test": 500}
    require(split in sizes, f"split is {split!r}; accepted: 'train', 'test'")
    count = sizes[split] if num_examples is None else num_examples
    generator = np.random.Generator(np.random.PCG64([seed, list(sizes).index(split)]))
    labels = generator.permutation(np.arange(count) % 10).astype(np.int32)
    rows = [line.split() for line in _DIGIT_DOTS.split("\n") if line]
    dots = np.array([[[dot == "#" for dot in row[digit]] for row in rows] for digit in range(10)])
    left, top = generator.integers(0, 4, count), generator.integers(0, 2, count)
    pictures = np.zeros((count, 8, 8))
    for index, digit in enumerate(labels):
        pictures[index, top[index] : top[index] + 7, left[index] : left[index] + 5] = dots[digit]
    pictures *= generator.uniform(140, 230, (count, 1, 1))
    pictures += generator.normal(0, 30, pictures.shape)
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)[..., None], labels


def _block_model_edges(generator, labels, num_edges: int, homophily: float) -> np.ndarray:
    """Undirected edges int32 [2, M], each once, no self loops; M is a little below num_edges."""
    weights = np.minimum(1.0 + generator.pareto(2.5, len(labels)), 10.0)
    sources = generator.choice(len(labels), num_edges, p=weights / weights.sum())
    within = generator.random(num_edges) < homophily
    targets = np.empty(num_edges, np.int64)
    for label in range(labels.max() + 1):
        own = labels == label
        for inside, allowed in ((True, own), (False, ~own)):
            chosen = (labels[sources] == label) & (within == inside)
            share = weights * allowed
            targets[chosen] = generator.choice(len(labels), chosen.sum(), p=share / share.sum())
    pairs = np.sort(np.stack([sources, targets]), axis=0)
    return np.unique(pairs[:, pairs[0] != pairs[1]], axis=1).astype(np.int32)


def _bags_of_words(generator, labels, num_words, words_per_node, topic_share) -> np.ndarray:
    """float32 [N, num_words] of 0 and 1; words are divided evenly into one topic a class."""
    num_classes = labels.max() + 1
    topic_size = num_words // num_classes
    shape = (len(labels), words_per_node)
    anywhere = generator.integers(0, num_words, shape)
    on_topic = labels[:, None] * topic_size + generator.integers(0, topic_size, shape)
    words = np.where(generator.random(shape) < topic_share, on_topic, anywhere)
    features = np.zeros((len(labels), num_words), np.float32)
    features[np.arange(len(labels))[:, None], words] = 1.0
    return features
