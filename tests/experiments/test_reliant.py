"""The experiment on a tiny configuration: knobs, kept cells, claims, pictures."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import command, papers, reliant
from experiments.reliant import Config, Knobs, PeerKnobs, TeacherKnobs
from experiments.reliant.claims import dominated_weights
from experiments.reliant.settings import (
    BARS,
    OFFICIAL,
    RULES,
    peer_configs,
    student_config,
    teacher_config,
    with_knobs,
)
from experiments.reliant.speed import bytes_of_step, memory_bandwidth
from experiments.reliant.study import Cell, Study, run_study
from lab.errors import InvalidInputError
from lab.papers.reliant import StudentConfig, prepare
from lab.papers.reliant.generated import biased_graph
from lab.report import VERDICTS, Run

TINY = dataclasses.replace(
    reliant.PRESETS["quick"],
    teacher_epochs=5,
    frameworks=("akd",),
    sweeps=("generated/akd",),
    alphas=(0.0, 10.0, 100.0),
    seeds=(3, 4),
    knobs=Knobs(max_epochs=4),
    checkpoint_epochs=3,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.open(tmp_path_factory.mktemp("runs"), "reliant", "quick", "tiny", TINY)
    return run, run.finish(reliant.main(TINY, run))


def test_every_claim_of_the_paper_has_a_row(finished):
    _, result = finished
    ids = {claim.id.split()[0] for claim in result.claims}
    assert {"C1", "C4", "C5", "C6", "C7"} <= ids
    assert all(claim.verdict in VERDICTS for claim in result.claims)
    untested = {claim.id for claim in result.claims if claim.measured is None}
    assert untested == {"C1 DBLP", "C1 Credit graph"}


def test_the_run_folder_holds_tables_and_pictures(finished):
    run, result = finished
    saved = json.loads(run.result_path.read_text())
    titles = [table["title"] for table in saved["tables"]]
    assert any("weights of the bias" in title for title in titles)
    assert any("by group" in title for title in titles)
    assert len(result.figures) == 5
    assert all((run.folder / figure.path).stat().st_size > 5000 for figure in result.figures)
    assert any("sensitive attribute itself" in note for note in result.notes)


def test_a_resumed_study_trains_nothing_again(finished):
    run, _ = finished
    parts = sorted(run.checkpoints.glob("*.npz"))
    assert len(parts) == 3
    before = [path.stat().st_mtime_ns for path in parts]
    again = Run.open(run.folder.parents[1], "reliant", "quick", "tiny", TINY, resume=True)
    study = run_study(TINY, again)
    assert [path.stat().st_mtime_ns for path in parts] == before
    cell = study.get("generated", "gcn", "akd", "reliant sp")
    assert cell.alpha == 30.0
    assert [c.alpha for c in study.curve("generated", "gcn", "akd")] == [0, 10, 30, 100]
    assert not list(run.checkpoints.glob("*.partial"))


def test_every_knob_reaches_the_student():
    changed = {
        "alpha": 3.0,
        "proxy_dim": 3,
        "proxy_input": "replace_last_two",
        "proxy_at_test": "best",
        "penalise_sensitive": True,
        "step_approx": "legendre",
        "steepness": 3.0,
        "eo_labels": "teacher_pseudo",
        "fairness_nodes": "all",
        "num_layers": 4,
        "emb_dim": 8,
        "mlp_layers": 3,
        "feat_drop": 0.3,
        "attn_drop": 0.1,
        "ptype": "tra",
        "kd_loss": "kl",
        "round_teacher": -1,
        "hidden_dim": 16,
        "powers": (1, 2, 1),
        "dropout_rate": 0.4,
        "akd_g_loss": "fixed",
        "d_critic": 2,
        "g_critic": 3,
        "project_embedding": True,
        "noisy_eval": True,
        "temperature": 4.0,
        "label_weight": 0.2,
        "learning_rate": 0.1,
        "proxy_learning_rate": 0.2,
        "critic_learning_rate": 0.3,
        "weight_decay": 0.4,
        "max_epochs": 7,
        "patience": 9,
        "select_by": "fair",
        "min_accuracy": 0.6,
        "min_auc": 0.7,
    }
    assert changed.keys() == {field.name for field in dataclasses.fields(Knobs)}
    made = dataclasses.asdict(with_knobs(StudentConfig(), Knobs(**changed)))
    flat = made | made.pop("fairness") | made.pop("plp") | made.pop("sgc")
    assert flat["round_teacher"] is None
    for name, value in changed.items():
        assert name == "round_teacher" or flat[name] == value, name


def test_options_of_teachers_and_peers_reach_them():
    teacher = TeacherKnobs(hidden_dim=8, gat_heads=2, patience=5)
    peer = PeerKnobs(cov_weight=1.0, sim_weight=0.5, max_epochs=3)
    config = Config(teacher_epochs=7, teacher=teacher, peer=peer)
    made = teacher_config(config, "bail", "gat")
    assert (made.architecture, made.max_epochs) == ("gat", 7)
    assert (made.hidden_dim, made.gat_heads, made.patience) == (8, 2, 5)
    assert made.select_by == "val_accuracy"
    assert teacher_config(config, "credit", "gat").select_by == "last"
    released = dataclasses.replace(config, settings="released")
    assert teacher_config(released, "credit", "gat").select_by == "val_accuracy"
    fairgnn, nifty = peer_configs(config, 4)
    assert (fairgnn.cov_weight, fairgnn.max_epochs) == (1.0, 3)
    assert (nifty.sim_weight, nifty.max_epochs, nifty.sensitive_column) == (0.5, 3, 4)


def test_knobs_and_choices_are_reached_from_the_command_line():
    experiment = papers.load("reliant")
    arguments = ["--knobs.eo-labels", "teacher_pseudo", "--knobs.feat-drop", "0.4"]
    arguments += ["--features", "z", "--drop-sensitive", "--frameworks", "cpf", "--metrics", "both"]
    arguments += ["--proxy-modes", "none", "--teachers", "gat", "--seeds", "7", "8"]
    arguments += ["--teacher.hidden-dim", "8", "--peer.dropped-edges", "0.9", "--split", "nifty"]
    config, _ = command.parse_paper(experiment, "reliant", "bench", arguments)
    assert config.knobs == Knobs(eo_labels="teacher_pseudo", feat_drop=0.4)
    assert (config.features, config.drop_sensitive, config.seeds) == ("z", True, (7, 8))
    assert (config.teacher.hidden_dim, config.peer.dropped_edges) == (8, 0.9)
    assert config.split == "nifty"
    assert (config.frameworks, config.metrics, config.proxy_modes, config.teachers) == (
        ("cpf",),
        ("both",),
        ("none",),
        ("gat",),
    )


def test_released_settings_are_those_of_the_data_set():
    config = Config(settings="released")
    german = student_config(config, "german", "cpf", "gcn").resolved()
    assert (german.plp.num_layers, german.learning_rate, german.weight_decay) == (8, 0.01, 0.01)
    assert german.fairness.proxy_input == "replace_last_two"
    assert (german.max_epochs, german.patience, german.alpha) == (1000, 500, 1000)
    akd = student_config(config, "bail", "akd", "sage").resolved()
    assert (akd.learning_rate, akd.critic_learning_rate, akd.max_epochs) == (1e-4, 1e-3, 600)
    with pytest.raises(InvalidInputError, match="akd, cpf"):
        student_config(config, "bail", "gnn", "gcn")


def test_the_bench_keeps_to_the_bars_that_were_fixed_before_it():
    bench = reliant.PRESETS["bench"]
    assert len(bench.seeds) >= 5
    assert not set(bench.seeds) & {0, 1, 2}
    assert len(bench.alphas) >= 8
    assert (RULES["credit"], RULES["bail"]) == ("last", "selected")
    assert BARS["credit", "akd"] == (0.6, "auc", 0.02)
    assert BARS["bail", "akd"] == (0.85, "accuracy", 0.04)
    assert student_config(bench, "bail", "akd", "gcn").alpha == 100
    assert OFFICIAL["credit", "akd", "sage"][1] == (0.7807, 0.0116, 0.0095)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frameworks": ("kd",)}, "frameworks"),
        ({"metrics": ("dp",)}, "metrics"),
        ({"proxy_modes": ("fixed",)}, "proxy_modes"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": ()}, "seed"),
    ],
)
def test_choices_that_make_no_sense_are_refused_before_anything_runs(tmp_path, options, message):
    config = dataclasses.replace(TINY, **options)
    run = Run.open(tmp_path, "reliant", "quick", "bad", config)
    with pytest.raises(InvalidInputError, match=message):
        run_study(config, run)


def cell_of(method, framework, auc, gap, alpha=0.0):
    scores = {"selected": {"auc": np.array([auc]), "delta_sp": np.array([gap])}}
    return Cell("g", "gcn", framework, method, scores, np.array([1]), alpha, {})


def test_a_weight_is_dominated_by_plain_distillation_too():
    cells = (
        cell_of("curve 1", "akd", 0.90, 0.30, 1.0),
        cell_of("curve 10", "akd", 0.85, 0.10, 10.0),
        cell_of("curve 100", "akd", 0.80, 0.10, 100.0),
        cell_of("vanilla", "akd", 0.91, 0.25),
        cell_of("teacher", "", 0.84, 0.40),
    )
    study = Study(cells, {}, ())
    found = dominated_weights(study, ("g", "gcn", "akd"), "selected")
    np.testing.assert_array_equal(found, [True, False, True])


def test_traffic_grows_with_the_graph_and_memory_moves():
    student = StudentConfig("akd").resolved()
    small = prepare(biased_graph(num_nodes=100))
    large = prepare(biased_graph(num_nodes=400))
    assert bytes_of_step(student, large) > 3 * bytes_of_step(student, small)
    assert memory_bandwidth(8) > 1e8
