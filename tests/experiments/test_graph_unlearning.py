"""The experiment on a small graph: parts are kept, claims are computed, bad input is one line."""

import dataclasses
import json

import pytest

from experiments import graph_unlearning
from experiments.graph_unlearning import Sweeps
from experiments.graph_unlearning.claims import CORA_SCRATCH
from lab.report import VERDICTS, Run

TINY = dataclasses.replace(
    graph_unlearning.PRESETS["quick"],
    models=("gcn",),
    methods=("random", "blpa"),
    num_shards=3,
    num_epochs=5,
    repeats=2,
    timed_shards=2,
    attack_requests=4,
    sweeps=Sweeps(
        num_shards=(2, 3),
        shard_size_deltas=(0.005,),
        lbaggr_nodes=(100,),
        edge_ratios=(0.0,),
        deletions=(1,),
        repeats=2,
    ),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Run.open(tmp_path_factory.mktemp("runs"), "graph_unlearning", "quick", "tiny", TINY)
    return run, run.finish(graph_unlearning.main(TINY, run))


def test_every_claim_of_the_paper_has_a_row(finished):
    _, result = finished
    ids = {claim.id.split("-")[0] for claim in result.claims}
    assert ids == {f"C{n}" for n in range(1, 10)}
    assert all(claim.verdict in VERDICTS for claim in result.claims)
    untested = {claim.id for claim in result.claims if claim.measured is None}
    assert {f"C4-{model}" for model in CORA_SCRATCH} <= untested


def test_the_run_folder_holds_tables_and_pictures(finished):
    run, result = finished
    saved = json.loads(run.result_path.read_text())
    assert len(saved["tables"]) == len(result.tables) > 5
    assert len(result.figures) == 6
    assert all((run.folder / figure.path).stat().st_size > 5000 for figure in result.figures)


def test_a_resumed_run_measures_nothing_again(finished):
    run, result = finished
    parts = sorted(run.checkpoints.glob("*.json"))
    before = [path.stat().st_mtime_ns for path in parts]
    again = Run.open(run.folder.parents[1], "graph_unlearning", "quick", "tiny", TINY, resume=True)
    second = graph_unlearning.main(TINY, again)
    assert [path.stat().st_mtime_ns for path in parts] == before
    assert [c.measured for c in second.claims] == [c.measured for c in result.claims]


def test_official_fault_of_bekm_is_shown_on_request(tmp_path):
    config = dataclasses.replace(TINY, methods=("bekm",), official_bekm=True)
    from experiments.graph_unlearning.study import load_problem, partitions_of

    problem = load_problem("generated_citations", config)
    with pytest.warns(UserWarning, match="official_index_bug"):
        graph = partitions_of(problem, "bekm_released", config, 1).graphs[0]
    assert set(graph.train_ids) & set(problem.test_ids)
