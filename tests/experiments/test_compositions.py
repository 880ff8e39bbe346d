"""Papers put together: what each composition is for shows in its numbers, at tiny sizes."""

import re
from pathlib import Path

import pytest

from experiments import compositions
from experiments.compositions.launch import load
from lab.report import Run


@pytest.fixture
def compose(tmp_path):
    """`compose(name, **changes)` runs a composition and gives its table's rows by name."""

    def run(name, **changes):
        composition = load(name)
        config = composition.Config(**changes)
        opened = Run.open(tmp_path, "compositions", name, "default", config)
        result = opened.finish(composition.main(config, opened))
        (table,) = result.tables
        return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}

    return run


def test_every_composition_is_listed_and_has_its_parts():
    for name in compositions.NAMES:
        composition = load(name)
        assert composition.TITLE
        assert composition.SUMMARY.endswith(".")
        assert f"experiments.compositions.{name}" in composition.__doc__
    readme = Path(compositions.__path__[0], "README.md").read_text()
    shown = re.findall(r"^    python -m experiments\.compositions\.(\w+)", readme, re.MULTILINE)
    assert shown == list(compositions.NAMES)


def test_users_of_a_network_agree_on_a_graph_model_that_no_shard_alone_finds(compose):
    rows = compose(
        "graph_over_network",
        num_nodes=200,
        num_users=3,
        num_rounds=30,
        algorithms=("dacfl", "local"),
    )
    assert rows["dacfl"]["accuracy"].mean > rows["local"]["accuracy"].mean
    assert rows["dacfl"]["distance of the models"] < rows["local"]["distance of the models"] / 10


@pytest.mark.slow
def test_users_distil_a_vision_transformer(compose):
    rows = compose(
        "vit_over_network",
        num_pictures=90,
        num_users=3,
        teacher_steps=0,
        num_rounds=20,
        algorithms=("dacfl",),
    )
    assert rows["dacfl"]["worst user's"] < 0.9 * rows["not at all"]["relation loss"]


def test_drummers_learn_styles_that_they_never_play(compose):
    rows = compose(
        "drummers_over_network",
        num_grooves=50,
        num_users=3,
        num_rounds=30,
        width=16,
        algorithms=("dacfl", "local"),
    )
    assert rows["dacfl"]["worst user's"] < rows["local"]["worst user's"]


def test_weight_on_the_bias_lowers_it_in_every_users_graph(compose):
    rows = compose("fair_over_network", num_nodes=150, num_users=3, num_rounds=20, alphas=(0, 10))
    assert rows[10]["the bias users see"] < 0.7 * rows[0]["the bias users see"]


@pytest.mark.slow
def test_students_asked_without_labels_hardly_give_deleted_nodes_away(compose):
    rows = compose(
        "forgotten_student",
        num_nodes=150,
        num_forgotten=20,
        num_epochs=20,
        num_seeds=2,
        students=("cpf",),
    )
    # Students that are told the labels they were trained on answer with them: AUC 0 or near 1.
    aucs = [row["AUC of the attack"].mean for row in rows.values()]
    assert len(aucs) == 3
    assert all(0.2 < auc < 0.8 for auc in aucs)
