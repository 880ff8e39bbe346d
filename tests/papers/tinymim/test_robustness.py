import numpy as np
import pytest
from PIL import Image

from lab.data.folders import image_folder
from lab.errors import DatasetNotFoundError, InvalidInputError
from lab.papers.tinymim.metrics import ALEXNET_ERRORS
from lab.papers.tinymim.robustness import (
    collect_logits,
    corruption_folders,
    evaluate_corruptions,
    evaluate_subset,
)

CLASSES = ["n0", "n1", "n2"]


def write(folder, names, colour_of, per_class=2):
    """Class folders whose pictures are all one colour."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            picture = np.full((4, 5, 3), 0, np.uint8)
            picture[..., colour_of(name)] = 200
            Image.fromarray(picture).save(folder / name / f"{i}.png")


def brightest_channel(images, sizes):
    """A classifier whose class is the strongest colour of the upper left pixel."""
    assert images.shape[0] == 4
    assert (sizes == [4, 5]).all()
    return images[:, 0, 0].astype(np.float32)


def index(name):
    return CLASSES.index(name)


def test_logits_of_all_pictures_come_in_order_without_padding(tmp_path):
    write(tmp_path, CLASSES, index)
    logits, labels = collect_logits(brightest_channel, image_folder(tmp_path, canvas=8), 4)
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(logits.argmax(axis=1), labels)


def test_a_subset_is_decided_among_its_own_classes(tmp_path):
    # pictures of n1 and n2 look like n0, which is not among the folder's classes
    write(tmp_path, ["n1", "n2"], lambda name: 0)
    options = {"canvas": 8, "batch_size": 4}
    assert evaluate_subset(brightest_channel, tmp_path, CLASSES, **options) == 0.5
    with pytest.raises(InvalidInputError, match=r"\['n2'\] are not among"):
        evaluate_subset(brightest_channel, tmp_path, CLASSES[:2], **options)


def test_corruptions_are_averaged_over_severities(tmp_path):
    for severity in range(1, 6):
        # from severity 4 on every class looks like the next one
        shift = int(severity >= 4)
        write(tmp_path / f"fog/{severity}", CLASSES, lambda n, s=shift: (index(n) + s) % 3)
        write(tmp_path / f"weather/snow/{severity}", CLASSES, index)
    scores = evaluate_corruptions(
        brightest_channel, tmp_path, CLASSES, corruptions=("fog", "snow"), canvas=8, batch_size=4
    )
    assert scores["errors"] == {"fog": [0, 0, 0, 1, 1], "snow": [0] * 5}
    assert scores["mean_error"] == pytest.approx(0.2)
    assert scores["mce"] == pytest.approx(0.4 / ALEXNET_ERRORS["fog"] / 2)


def test_missing_corruptions_are_named(tmp_path):
    write(tmp_path / "fog/1", CLASSES, index)
    with pytest.raises(DatasetNotFoundError, match=r"lacks 74 folders .*gaussian_noise/1"):
        corruption_folders(tmp_path)


def test_pictures_without_classes_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(InvalidInputError, match="no labels: put them in class folders"):
        collect_logits(brightest_channel, image_folder(tmp_path, canvas=8), 4)
