"""Whole runs: copies, sweeps, chunks, stopping, non-finite numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.papers.reliant import (
    RELIANT,
    PLPConfig,
    SGCConfig,
    StudentConfig,
    TeacherConfig,
    evaluate,
    evaluate_copies,
    predict,
    seed_keys,
    teach,
    train_students,
    with_features,
)
from lab.train.checkpoints import Checkpoints
from lab.train.whole import first_bad_step
from tests.papers.reliant.graphs import small_graph, small_teacher

# Plain distillation compiles fastest, and runs are alike in every framework.
KD = StudentConfig("kd", RELIANT, sgc=SGCConfig(4), max_epochs=12, learning_rate=0.05)


@functools.cache
def sweep(copies="in_turn"):
    keys = seed_keys([0, 1])
    return train_students(KD, small_graph(), small_teacher(), keys, [0.0, 50.0], copies=copies)


def test_a_sweep_has_an_axis_of_weights_and_one_of_seeds():
    runs, graph = sweep(), small_graph()
    assert runs.logits.shape == (2, 2, graph.num_nodes, 2)
    assert runs.best_epoch.shape == (2, 2)
    assert runs.history["loss"].shape == (2, 2, 12)
    np.testing.assert_array_equal(runs.states.alpha, [[0, 0], [50, 50]])


def test_each_copy_is_what_it_is_among_others():
    args = (KD, small_graph(), small_teacher())
    same = train_students(*args, seed_keys([1, 1]), [50.0, 50.0], copies="in_turn")
    for weight in range(2):
        for seed in range(2):
            np.testing.assert_array_equal(same.logits[weight, seed], sweep().logits[1, 1])
    np.testing.assert_allclose(sweep("together").logits, sweep().logits, atol=2e-4)


def test_a_run_in_chunks_killed_and_resumed_is_the_whole_run(tmp_path):
    args = (KD, small_graph(), small_teacher(), seed_keys([0, 1]), [0.0, 50.0])

    class Killed(Exception):
        pass

    def kill(epochs, history):
        if epochs >= 5:
            raise Killed

    options = {"copies": "in_turn", "chunk_epochs": 5}
    with pytest.raises(Killed):
        train_students(*args, checkpoints=Checkpoints(tmp_path), on_chunk=kill, **options)
    seen = []
    runs = train_students(
        *args,
        checkpoints=Checkpoints(tmp_path),
        on_chunk=lambda epochs, history: seen.append(epochs),
        **options,
    )
    assert seen == [10, 12]
    np.testing.assert_array_equal(runs.logits, sweep().logits)
    np.testing.assert_array_equal(runs.history["loss"], sweep().history["loss"])


def test_students_speak_of_changed_graphs_and_the_same_of_the_same():
    graph, states = small_graph(), sweep().states
    selected, last = predict(KD, graph, small_teacher(), states)
    np.testing.assert_allclose(selected, sweep().logits, atol=1e-5)
    np.testing.assert_allclose(last, sweep().last_logits, atol=1e-5)
    other = with_features(graph, graph.features + 1)
    changed, _ = predict(KD, other, small_teacher(), states)
    assert changed.shape == selected.shape
    assert np.abs(changed - selected).max() > 1e-3
    with pytest.raises(InvalidInputError, match="features have shape"):
        with_features(graph, graph.features[:3])


def test_variants_that_differ_in_data_alone_share_a_program():
    before = _cached_programs()
    fairness = dataclasses.replace(RELIANT, metric="eo", fairness_nodes="all")
    config = dataclasses.replace(KD, fairness=fairness)
    train_students(
        config, small_graph(), small_teacher(), seed_keys([0, 1]), [0.0, 50.0], copies="in_turn"
    )
    assert _cached_programs() == max(before, 1)


def _cached_programs():
    from lab.papers.reliant.training import _compiled_student

    return _compiled_student.cache_info().currsize


@pytest.mark.parametrize("framework", ["cpf", "akd"])
def test_the_penalty_makes_students_fairer(framework):
    graph = small_graph()
    config = StudentConfig(
        framework,
        RELIANT,
        plp=PLPConfig(3, emb_dim=4, feat_drop=0.1),
        max_epochs=80,
        learning_rate=0.05 if framework == "cpf" else 0.01,
        select_by="last",
        patience=80,
    )
    runs = train_students(
        config, graph, small_teacher(), seed_keys(range(3)), [0.0, 100.0], copies="in_turn"
    )
    scores = evaluate_copies(runs.logits, graph, ~graph.train_mask)
    assert scores["delta_sp"][1].mean() < 0.7 * scores["delta_sp"][0].mean()
    assert scores["accuracy"][0].mean() > 0.75


def test_a_student_stops_when_patience_runs_out_and_keeps_its_best():
    config = dataclasses.replace(KD, patience=2, max_epochs=40, select_by="val_loss")
    runs = train_students(config, small_graph(), small_teacher(), seed_keys([0]))
    running = runs.history["running"][0]
    last = int(running.sum())
    assert last < 40
    assert not running[last:].any()
    losses = runs.history["val_loss"][0][:last]
    assert runs.best_epoch[0] == losses.argmin() == last - 3
    assert (losses[-2:] > losses.min()).all()


def test_a_copy_that_turns_non_finite_leaves_the_others_running():
    runs = train_students(
        KD,
        small_graph(),
        small_teacher(),
        seed_keys([0, 1]),
        [50.0, float("1e39")],
        copies="in_turn",
    )
    bad = first_bad_step(runs.history)
    assert (bad[0] == -1).all()
    assert (bad[1] == 0).all()
    assert np.isfinite(runs.logits).all()
    np.testing.assert_array_equal(runs.logits[0], sweep().logits[1])


def test_arguments_that_do_not_fit_are_refused():
    args = (KD, small_graph(), small_teacher())
    with pytest.raises(InvalidInputError, match="typed key"):
        train_students(*args, jnp.zeros((2, 2), jnp.uint32))
    with pytest.raises(InvalidInputError, match=r"\[seeds\]"):
        train_students(*args, jax.random.key(0))
    with pytest.raises(InvalidInputError, match="not negative"):
        train_students(*args, seed_keys([0]), [-1.0])
    with pytest.raises(InvalidInputError, match="copies"):
        train_students(*args, seed_keys([0]), copies="all")


def test_teachers_learn_and_each_key_has_its_own():
    graph = small_graph()
    config = TeacherConfig("gcn", num_layers=2, hidden_dim=8, dropout_rate=0.2, max_epochs=60)
    taught = teach(config, graph, seed_keys([0, 1]))
    alone = teach(config, graph, seed_keys([1, 1]))
    alone = jax.tree.map(lambda x: x[0], alone)
    np.testing.assert_array_equal(taught.knowledge.log_probs[1], alone.knowledge.log_probs)
    assert not np.array_equal(*taught.knowledge.log_probs)
    scores = evaluate(alone.knowledge.log_probs, graph, ~graph.train_mask)
    assert scores.accuracy > scores.majority
    assert alone.knowledge.embedding.shape == (graph.num_nodes, 8)
    losses = np.asarray(alone.history["loss"])
    assert losses[-1] < 0.7 * losses[0]


def test_a_teacher_may_keep_its_last_epoch():
    config = TeacherConfig("sgc", max_epochs=3, select_by="last")
    assert teach(config, small_graph(), jax.random.key(0)).best_epoch == 2
    with pytest.raises(InvalidInputError, match="val_accuracy, val_loss, last"):
        teach(TeacherConfig("sgc", select_by="auc"), small_graph(), jax.random.key(0))
