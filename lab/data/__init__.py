"""Where arrays come from: the catalogue, graphs, images, embedded sets."""

from lab.data.catalogue import entry, fetch_dataset, load, locate, names
from lab.data.graphs import NodeDataset
from lab.data.images import load_images

__all__ = [
    "NodeDataset",
    "entry",
    "fetch_dataset",
    "load",
    "load_images",
    "locate",
    "names",
]
