"""Kill -9 while deletion requests are served: none is lost, none is done twice."""

import json
import random
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from lab.data.embedded import generated_citations
from lab.papers.graph_unlearning.config import EnsembleConfig
from lab.papers.graph_unlearning.ensemble import fit
from lab.papers.graph_unlearning.service import create, load

DATASET = generated_citations(num_nodes=240, num_words=60)
NUM_REQUESTS = 12


def requested_nodes(ensemble):
    """The same nodes in every life of the sender: the first train nodes of the whole data set."""
    everything = np.concatenate([ensemble.graph.removed_nodes, ensemble.graph.train_ids])
    return np.sort(everything)[:NUM_REQUESTS].tolist()


def start(folder):
    program = [sys.executable, "-m", "tests.system.deletion_program", str(folder)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


def serve_all(folder):
    process = start(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert output.split() == ["open", "done"]


def serve_with_kills(folder, num_kills):
    """Kills the server at random moments of its work, then lets it finish."""
    random_moment = random.Random(0)
    for _ in range(num_kills):
        process = start(folder)
        assert process.stdout.readline() in ("open\n", "done\n")
        time.sleep(random_moment.uniform(0, 1.2))
        process.kill()
        process.communicate(timeout=60)
    serve_all(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    config = EnsembleConfig(num_shards=4, num_epochs=8, lbaggr_nodes=100)
    create(folder / "fresh", fit(DATASET, config))
    shutil.copytree(folder / "fresh", folder / "whole")
    serve_all(folder / "whole")
    return folder


@pytest.mark.parametrize("num_kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_no_request_is_lost_or_repeated(undisturbed, tmp_path, num_kills):
    folder = tmp_path / "service"
    shutil.copytree(undisturbed / "fresh", folder)
    serve_with_kills(folder, num_kills)
    audit = [json.loads(line) for line in (folder / "receipts.jsonl").read_text().splitlines()]
    assert [line["id"] for line in audit] == [f"request-{n}" for n in range(NUM_REQUESTS)]
    one = load(folder / "states", DATASET)
    two = load(undisturbed / "whole" / "states", DATASET)
    assert len(one.graph.removed_nodes) == NUM_REQUESTS
    jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)
    np.testing.assert_array_equal(one.weights, two.weights)
