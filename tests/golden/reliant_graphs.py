"""Golden files of RELIANT as graphs of the library."""

import numpy as np

from lab.data.graphs import clean_edges, from_arrays
from lab.papers.reliant.data import prepare


def inputs(entry):
    return group(entry, "input")


def group(entry, name):
    """The arrays under `name/`, by the rest of their key."""
    prefix = f"{name}/"
    return {k[len(prefix) :]: entry.arrays[k] for k in entry.arrays if k.startswith(prefix)}


def named(prefix, arrays):
    return {f"{prefix}/{name}": np.asarray(value) for name, value in arrays.items()}


def without_loops(arrays):
    edges = np.stack([arrays["src"], arrays["dst"]])
    return clean_edges(edges[:, edges[0] != edges[1]], int(arrays["num_nodes"]))[0]


def graph_of(arrays, num_classes=2):
    """The FairGraph of a golden file; splits it lacks are filled with what the others leave."""
    num_nodes = int(arrays["num_nodes"])
    masks = {}
    for part in ("train", "val", "test"):
        masks[part] = np.zeros(num_nodes, bool)
        if f"idx_{part}" in arrays:
            masks[part][arrays[f"idx_{part}"]] = True
    rest = np.flatnonzero(~(masks["train"] | masks["val"] | masks["test"]))
    for part, share in zip(("val", "test"), np.array_split(rest, 2), strict=True):
        if f"idx_{part}" not in arrays:
            masks[part][share] = True
    if not masks["train"].any():
        masks["train"][0], masks["val"][0], masks["test"][0] = True, False, False
    labels = arrays.get("labels", np.arange(num_nodes) % num_classes)
    dataset = from_arrays(
        "golden",
        arrays.get("features_full", arrays.get("features", np.ones((num_nodes, 1)))),
        labels,
        without_loops(arrays),
        num_classes=num_classes,
        sensitive=arrays.get("sens", np.arange(num_nodes) % 2),
        **{f"{part}_mask": mask for part, mask in masks.items()},
    )
    return prepare(dataset)


def link_order(arrays, graph):
    """For each directed edge of the file, its position among the links."""
    num_nodes = graph.num_nodes
    codes = np.asarray(graph.links.receivers, np.int64) * num_nodes + np.asarray(
        graph.links.senders
    )
    return np.searchsorted(codes, arrays["dst"].astype(np.int64) * num_nodes + arrays["src"])
