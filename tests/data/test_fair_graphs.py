import csv
import shutil

import numpy as np
import pytest

from lab import data
from lab.data import fair_graphs
from lab.errors import CorruptFileError, DatasetNotFoundError, InvalidInputError

pytestmark = pytest.mark.filterwarnings("error")

# From the data set's documentation: nodes, undirected edges, features, train/val/test nodes.
FACTS = {
    "bail": (18876, 311870, 18, (5662, 3776, 9438)),
    "credit": (30000, 137377, 13, (1000, 7500, 7500)),
    "german": (1000, 21742, 27, (500, 250, 250)),
    "nba": (403, 10621, 96, (100, 78, 79)),
}
# Share of label 1 and of sensitive 1, percent.
SHARES = {"bail": (37.6, 50.6), "credit": (77.9, 8.9), "german": (70.0, 31.0)}


def split_sizes(dataset):
    return tuple(int(m.sum()) for m in (dataset.train_mask, dataset.val_mask, dataset.test_mask))


@pytest.mark.real_data
@pytest.mark.parametrize("name", FACTS)
def test_fair_graph_has_the_published_counts(name, require_dataset):
    require_dataset(name)
    dataset = data.load(name)
    nodes, edges, features, sizes = FACTS[name]
    assert (dataset.num_nodes, dataset.num_edges) == (nodes, 2 * edges)
    assert dataset.num_features == len(dataset.feature_names) == features
    assert split_sizes(dataset) == sizes
    if name in SHARES:
        shares = (100 * dataset.labels.mean(), 100 * dataset.sensitive.mean())
        assert shares == pytest.approx(SHARES[name], abs=0.06)


@pytest.mark.real_data
def test_players_without_a_salary_are_unlabelled(require_dataset):
    require_dataset("nba")
    dataset = data.load("nba")
    assert len(dataset.unlabeled) == 90
    assert (dataset.labels[dataset.unlabeled] == -1).all()


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "nodes", "edges", "sizes"),
    [("bail", 4000, 14067, (1211, 803, 1986)), ("credit", 6000, 5530, (1000, 2500, 2500))],
)
def test_mini_graph_has_the_published_counts(name, nodes, edges, sizes, require_dataset):
    require_dataset(name)
    dataset = data.load(name, mini=True)
    assert (dataset.num_nodes, dataset.num_edges) == (nodes, 2 * edges)
    assert split_sizes(dataset) == sizes


@pytest.mark.real_data
def test_isolated_nodes_of_mini_bail(require_dataset):
    require_dataset("bail")
    dataset = data.load("bail", mini=True)
    assert dataset.num_nodes - len(np.unique(dataset.edge_index)) == 92


@pytest.mark.real_data
@pytest.mark.parametrize("name", FACTS)
def test_sensitive_column_can_be_dropped(name, require_dataset):
    require_dataset(name)
    whole, dropped = data.load(name), data.load(name, drop_sensitive=True)
    column = fair_graphs.FAIR_TABLES[name].sensitive
    index = whole.feature_names.index(column)
    np.testing.assert_array_equal(whole.features[:, index], whole.sensitive)
    assert column not in dropped.feature_names
    np.testing.assert_array_equal(dropped.features, np.delete(whole.features, index, axis=1))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "split"),
    [(name, split) for name, table in fair_graphs.FAIR_TABLES.items() for split in table.splits],
)
def test_split_recipe_reproduces_the_published_indices(name, split, require_dataset):
    prefix = "" if split == "paper" else "nifty_"
    with np.load(require_dataset(name)) as arrays:
        recipe = fair_graphs.FAIR_TABLES[name].splits[split]
        found = fair_graphs.split_indices(arrays["labels"], recipe)
        for part, indices in zip(("train", "val", "test"), found, strict=True):
            np.testing.assert_array_equal(indices, arrays[f"{prefix}idx_{part}"], part)


def write_public_table(folder, name, arrays):
    """The public csv and edge list of a set, as the repositories publish them."""
    table = fair_graphs.FAIR_TABLES[name]
    columns = dict(
        zip(arrays["feature_names"].tolist(), arrays["features"].T.tolist(), strict=True)
    )
    labels = arrays["labels"].tolist()
    if name == "german":
        columns["Gender"] = ["Female" if value else "Male" for value in columns["Gender"]]
        labels = [1 if label else -1 for label in labels]
    columns = (
        {"PurposeOfLoan": ["Electronics"] * len(labels), **columns}
        if name == "german"
        else (columns)
    )
    ids = np.arange(len(labels)) * 7 + 100 if table.id_column else np.arange(len(labels))
    if table.id_column:
        columns = {table.id_column: ids.tolist(), **columns}
    columns[table.label] = labels
    folder.mkdir(parents=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    edges = ids[arrays["edges"].astype(int)].T
    np.savetxt(folder / table.edges_file, edges, fmt="%d" if table.id_column else "%.18e")


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["german", "nba"])
def test_public_table_gives_the_same_graph_as_the_npz(name, require_dataset, tmp_path):
    with np.load(require_dataset(name)) as arrays:
        write_public_table(tmp_path / "fair_graphs" / name, name, dict(arrays))
    expected, public = data.load(name), data.load(name, tmp_path)
    for field in ("labels", "edge_index", "sensitive", "train_mask", "val_mask", "test_mask"):
        np.testing.assert_array_equal(getattr(public, field), getattr(expected, field), field)
    assert public.feature_names == expected.feature_names
    np.testing.assert_allclose(public.features, expected.features, rtol=1e-6)


@pytest.fixture
def small_table(tmp_path):
    """A public bail table of 40 people; gives its folder."""
    generator = np.random.default_rng(0)
    arrays = {
        "feature_names": np.array(["WHITE", "AGE"]),
        "features": np.stack([np.arange(40) % 2, generator.integers(18, 70, 40)], axis=1),
        "labels": np.arange(40) // 2 % 2,
        "edges": np.stack([np.arange(39), np.arange(1, 40)]),
    }
    write_public_table(tmp_path / "bail", "bail", arrays)
    return tmp_path


def test_small_public_table_is_read(small_table):
    dataset = data.load("bail", small_table)
    assert (dataset.num_nodes, dataset.num_edges) == (40, 78)
    assert split_sizes(dataset) == (12, 8, 20)
    assert dataset.sensitive.tolist() == [0, 1] * 20


def test_table_without_edges_says_what_is_expected(small_table):
    (small_table / "bail" / "bail_edges.txt").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"bail_edges\.txt is not there; expected"):
        data.load("bail", small_table)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2].rpartition(",")[0], "row .* has 1 fields|2 fields"),
        (lambda text: text.replace("RECID", "OTHER"), "no column RECID"),
        (lambda text: text.partition("\n")[0], "no rows"),
        (lambda text: "", "no rows"),
        (lambda text: text.replace("\n0,", "\nmany,", 1), "column WHITE holds no numbers"),
    ],
)
def test_damaged_table_is_corrupt(small_table, damage, message):
    path = small_table / "bail" / "bail.csv"
    path.write_text(damage(path.read_text().replace("\r\n", "\n")))
    with pytest.raises(CorruptFileError, match=message):
        data.load("bail", small_table)


def test_edges_to_unknown_people_are_refused(small_table):
    path = small_table / "bail" / "bail_edges.txt"
    path.write_text(path.read_text() + "3 40\n")
    with pytest.raises(InvalidInputError, match=r"bail: edge_index holds .*\[40\]"):
        data.load("bail", small_table)


def test_unknown_split_lists_the_accepted(small_table):
    with pytest.raises(InvalidInputError, match="accepted: paper, nifty"):
        data.load("bail", small_table, split="public")


def test_table_has_no_mini_graph(small_table):
    with pytest.raises(InvalidInputError, match="no mini_nodes"):
        data.load("bail", small_table, mini=True)


def test_missing_feature_lists_the_known(small_table):
    with pytest.raises(InvalidInputError, match="no feature 'AGES'; it has WHITE, AGE"):
        fair_graphs.without_feature(data.load("bail", small_table), "AGES")


@pytest.mark.real_data
def test_dblp_has_the_published_counts_and_warns_of_its_features(require_dataset, tmp_path):
    path = require_dataset("dblp_small")
    with pytest.warns(UserWarning, match="features are synthetic"):
        dataset = data.load("dblp_small")
    assert (dataset.num_nodes, dataset.num_edges, dataset.num_features) == (39424, 2 * 52460, 256)
    assert split_sizes(dataset) == (19712, 9855, 9857)
    assert dataset.num_nodes - len(np.unique(dataset.edge_index)) == 9014
    assert np.count_nonzero(dataset.features) == 254600
    shutil.copy(path, tmp_path)
    with pytest.raises(DatasetNotFoundError, match="dblp_small_synthetic_features"):
        data.load("dblp_small", tmp_path)
