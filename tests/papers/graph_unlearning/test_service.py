"""Saving an ensemble, and serving requests so that none is lost or done twice."""

import dataclasses

import jax
import numpy as np
import pytest

from lab.data.embedded import generated_citations
from lab.errors import CheckpointError, InvalidInputError, StorageError
from lab.papers.graph_unlearning.config import EnsembleConfig
from lab.papers.graph_unlearning.ensemble import fit, predict, unlearn
from lab.papers.graph_unlearning.service import create, load, open_service, save

DATASET = generated_citations(num_nodes=240, num_words=60)
CONFIG = EnsembleConfig(num_shards=4, num_epochs=8, lbaggr_nodes=100)


@pytest.fixture(scope="module")
def ensemble():
    return fit(DATASET, CONFIG)


def test_a_saved_ensemble_comes_back_whole(ensemble, tmp_path):
    after, _ = unlearn(ensemble, nodes=ensemble.graph.train_ids[:2])
    save(after, tmp_path)
    back = load(tmp_path, DATASET)
    assert back.config == after.config
    jax.tree.map(np.testing.assert_array_equal, back.variables, after.variables)
    np.testing.assert_array_equal(back.features, after.features)
    np.testing.assert_array_equal(predict(back), predict(after))
    third = int(after.graph.train_ids[0])
    one, two = unlearn(back, nodes=[third])[0], unlearn(after, nodes=[third])[0]
    jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)


def test_another_data_set_is_refused(ensemble, tmp_path):
    save(ensemble, tmp_path)
    with pytest.raises(CheckpointError, match="another data set"):
        load(tmp_path, generated_citations(num_nodes=240, num_words=60, seed=1))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no saved ensemble"):
        load(tmp_path, DATASET)
    with (
        pytest.raises(CheckpointError, match="holds no deletion service"),
        open_service(tmp_path, DATASET),
    ):
        pass


def test_requests_are_served_and_audited(ensemble, tmp_path):
    create(tmp_path, ensemble)
    first, second = ensemble.graph.train_ids[:2].tolist()
    with open_service(tmp_path, DATASET) as service:
        assert service.submit("a", nodes=[first])
        assert service.submit("b", features=[second])
        assert not service.submit("a", nodes=[first])
        assert service.pending == 2
        lines = service.serve()
        assert [line["id"] for line in lines] == ["a", "b"]
        assert lines[0]["retrained_shards"] == [ensemble.graph.labels[first]]
    with open_service(tmp_path, DATASET) as service:
        assert service.pending == 0
        assert [line["id"] for line in service.audit_log()] == ["a", "b"]
        assert service.ensemble.graph.removed_nodes.tolist() == [first]
        assert service.ensemble.graph.featureless_nodes.tolist() == [second]


def test_what_cannot_be_done_after_the_accepted_ones_is_not_accepted(ensemble, tmp_path):
    create(tmp_path, ensemble)
    node = int(ensemble.graph.train_ids[0])
    with open_service(tmp_path, DATASET) as service:
        service.submit("a", nodes=[node])
        with pytest.raises(InvalidInputError, match="removed before"):
            service.submit("b", nodes=[node])
        with pytest.raises(InvalidInputError, match="'a' is taken by another"):
            service.submit("a", nodes=[int(ensemble.graph.train_ids[1])])
        assert service.pending == 1
    with open_service(tmp_path, DATASET) as service:
        assert service.pending == 1


def test_a_torn_line_was_never_accepted(ensemble, tmp_path):
    create(tmp_path, ensemble)
    node = int(ensemble.graph.train_ids[0])
    with open_service(tmp_path, DATASET) as service:
        service.submit("a", nodes=[node])
    with open(tmp_path / "requests.jsonl", "a") as file:
        file.write('{"id": "b", "kind": "no')
    with open_service(tmp_path, DATASET) as service:
        assert service.pending == 1
        assert service.submit("b", nodes=[int(ensemble.graph.train_ids[1])])
        assert len(service.serve()) == 2


def test_a_receipt_lost_between_two_writes_is_written_on_opening(ensemble, tmp_path):
    create(tmp_path, ensemble)
    with open_service(tmp_path, DATASET) as service:
        service.submit("a", nodes=[int(ensemble.graph.train_ids[0])])
        service.serve()
    (tmp_path / "receipts.jsonl").unlink()
    with open_service(tmp_path, DATASET) as service:
        assert [line["id"] for line in service.audit_log()] == ["a"]


def test_a_damaged_log_is_an_error(ensemble, tmp_path):
    create(tmp_path, ensemble)
    (tmp_path / "requests.jsonl").write_text("not json\n")
    with (
        pytest.raises(CheckpointError, match=r"requests\.jsonl is damaged"),
        open_service(tmp_path, DATASET),
    ):
        pass


def test_one_process_at_a_time(ensemble, tmp_path):
    create(tmp_path, ensemble)
    with pytest.raises(InvalidInputError, match="already holds a service"):
        create(tmp_path, ensemble)
    with (
        open_service(tmp_path, DATASET),
        pytest.raises(StorageError, match="another process"),
        open_service(tmp_path, DATASET),
    ):
        pass


def test_a_config_of_another_version_is_refused(ensemble, tmp_path):
    odd = dataclasses.replace(ensemble, seconds={})
    save(odd, tmp_path)
    note = next(tmp_path.glob("*/note.json"))
    note.write_text(note.read_text().replace('"aggregator"', '"agregator"'))
    with pytest.raises(CheckpointError, match="saved configuration does not fit"):
        load(tmp_path, DATASET)
