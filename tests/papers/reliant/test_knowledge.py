"""What a teacher passes on: checks and files."""

import numpy as np
import pytest

from lab.errors import CorruptFileError, InvalidInputError, NonFiniteError
from lab.papers.reliant import knowledge, load_knowledge, save_knowledge
from tests.papers.reliant.graphs import small_teacher


def test_three_forms_say_the_same():
    logits = np.array([[1.0, -1.0], [0.2, 0.3]])
    first = knowledge(logits=logits)
    again = knowledge(log_probs=np.asarray(first.log_probs))
    third = knowledge(probs=np.exp(np.asarray(first.log_probs)))
    np.testing.assert_allclose(again.log_probs, first.log_probs)
    np.testing.assert_allclose(third.log_probs, first.log_probs, rtol=1e-5)


def test_rounding_keeps_four_decimals():
    probs = knowledge(probs=[[0.123456, 0.876544]]).probs(4)
    np.testing.assert_allclose(probs, [[0.1235, 0.8765]], atol=1e-7)


def test_rounded_probabilities_are_distributions_and_zeros_are_allowed():
    teacher = knowledge(probs=[[0.3333, 0.6662], [1.0, 0.0]])
    assert np.isfinite(teacher.log_probs).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"probs": [[0.4, 0.4]]}, "row 0"),
        ({"probs": [[-0.1, -2.4]]}, "log-probabilities passed as probs"),
        ({"log_probs": [[1.0, 2.0]]}, "logits"),
        ({"probs": [0.5, 0.5]}, r"\[nodes, classes\]"),
        ({}, "one of"),
        ({"probs": [[0.5, 0.5]], "embedding": np.zeros((3, 2))}, "embedding has shape"),
    ],
)
def test_what_is_no_knowledge_is_refused(given, message):
    with pytest.raises(InvalidInputError, match=message):
        knowledge(**given)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(NonFiniteError, match="logits"):
        knowledge(logits=[[np.nan, 0]])


def test_a_file_comes_back_the_same(tmp_path):
    teacher = small_teacher()
    path = save_knowledge(tmp_path / "teacher.npz", teacher, {"accuracy": 0.9})
    again = load_knowledge(path)
    np.testing.assert_array_equal(again.log_probs, teacher.log_probs)
    np.testing.assert_array_equal(again.embedding, teacher.embedding)
    assert np.load(path)["metrics/accuracy"] == np.float32(0.9)


def test_the_released_text_of_probabilities(tmp_path):
    path = tmp_path / "teacher.txt"
    path.write_text("0.2500 0.7500\n0.9000 0.1000\n")
    np.testing.assert_allclose(load_knowledge(path).probs(4), [[0.25, 0.75], [0.9, 0.1]], atol=1e-6)
    path.write_text("a b\n")
    with pytest.raises(CorruptFileError, match="not a table"):
        load_knowledge(path)


def test_the_released_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    logits = torch.log_softmax(torch.randn(5, 2), dim=1)
    state = {"logits": logits, "embedding": torch.rand(5, 4), "parity": 0.1, "equality": 0.2}
    torch.save(state, tmp_path / "bail.pth.tar")
    teacher = load_knowledge(tmp_path / "bail.pth.tar")
    np.testing.assert_allclose(teacher.log_probs, logits.numpy(), rtol=1e-5, atol=1e-6)
    torch.save({"logits": logits}, tmp_path / "half.pth.tar")
    with pytest.raises(CorruptFileError, match="lacks embedding"):
        load_knowledge(tmp_path / "half.pth.tar")
