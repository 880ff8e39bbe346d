import numpy as np
import pytest
from PIL import Image

from lab.data.segmentation import nearest, reduced_labels, segmentation_folder
from lab.data.streams import in_order
from lab.errors import CorruptFileError, DatasetNotFoundError, InvalidInputError


def write(root, name, picture, labels, split="training", suffix="jpg"):
    for folder in ("images", "annotations"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(root / "images" / split / f"{name}.{suffix}")
    Image.fromarray(labels).save(root / "annotations" / split / f"{name}.png")


@pytest.fixture
def ade(tmp_path):
    """Three pictures of different sizes, in the layout of ADE20K; labels 0 (none) to 3."""
    rng = np.random.default_rng(0)
    for name, size in (("a", (6, 9)), ("b", (12, 5)), ("c", (30, 24))):
        picture = rng.integers(0, 256, (*size, 3), np.uint8)
        write(tmp_path, name, picture, rng.integers(0, 4, size, np.uint8), suffix="png")
    return tmp_path


def test_examples_lie_in_the_corner_of_their_canvas(ade):
    source = segmentation_folder(ade, num_classes=3, canvas=16)
    batch = source.read(np.array([1, 0]))
    np.testing.assert_array_equal(batch["size"], [[12, 5], [6, 9]])
    picture = np.asarray(Image.open(ade / "images/training/b.png"))
    raw = np.asarray(Image.open(ade / "annotations/training/b.png"))
    np.testing.assert_array_equal(batch["image"][0, :12, :5], picture)
    expected = np.where(raw == 0, 255, raw.astype(int) - 1)
    np.testing.assert_array_equal(batch["labels"][0, :12, :5], expected)
    assert (batch["labels"][0, 12:] == 255).all()
    assert (batch["labels"][0, :, 5:] == 255).all()


def test_a_picture_larger_than_the_canvas_is_scaled_down_with_its_labels(ade):
    batch = segmentation_folder(ade, num_classes=3, canvas=15).read(np.array([2]))
    np.testing.assert_array_equal(batch["size"], [[15, 12]])
    raw = np.asarray(Image.open(ade / "annotations/training/c.png"))
    expected = reduced_labels(raw[::2, ::2])
    np.testing.assert_array_equal(batch["labels"][0, :15, :12], expected)


def test_whole_pictures_have_their_own_size(ade):
    pairs = list(segmentation_folder(ade, num_classes=3, canvas=4).whole())
    assert [labels.shape for _, labels in pairs] == [(6, 9), (12, 5), (30, 24)]
    assert all(picture.shape == (*labels.shape, 3) for picture, labels in pairs)


def test_a_folder_streams(ade):
    batches = list(in_order(segmentation_folder(ade, num_classes=3, canvas=16), 2))
    assert [batch["mask"].tolist() for batch in batches] == [[1, 1], [1, 0]]


def test_labels_as_they_are_need_no_reduction(tmp_path):
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    write(tmp_path, "x", np.zeros((2, 2, 3), np.uint8), labels)
    source = segmentation_folder(tmp_path, num_classes=3, zero_is_unlabelled=False)
    ((_, found),) = source.whole()
    np.testing.assert_array_equal(found, labels)


def test_zero_and_255_are_ignored_after_reduction():
    raw = np.array([0, 1, 150, 254, 255], np.uint8)
    np.testing.assert_array_equal(reduced_labels(raw), [255, 0, 149, 253, 255])
    with pytest.raises(InvalidInputError, match="must be uint8, got int64"):
        reduced_labels(np.array([0, 1]))


def test_grey_pictures_become_rgb(tmp_path):
    write(tmp_path, "g", np.full((3, 4), 7, np.uint8), np.ones((3, 4), np.uint8), suffix="png")
    ((picture, _),) = segmentation_folder(tmp_path, num_classes=3).whole()
    np.testing.assert_array_equal(picture, np.full((3, 4, 3), 7))


def test_a_label_that_is_no_class_names_the_file(ade):
    source = segmentation_folder(ade, num_classes=2, canvas=16)
    with pytest.raises(InvalidInputError, match=r"training.a\.png has label 2 .*0\.\.1"):
        source.read(np.array([0]))


def test_pictures_and_maps_of_different_sizes_are_named(tmp_path):
    write(tmp_path, "x", np.zeros((4, 5, 3), np.uint8), np.ones((5, 4), np.uint8))
    with pytest.raises(CorruptFileError, match=r"x\.jpg and .*x\.png are of different sizes"):
        segmentation_folder(tmp_path).read(np.array([0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no picture", "cannot be decoded"), (None, r"no label map.*mode is RGB")],
)
def test_damaged_label_maps_are_named(ade, content, message):
    file = ade / "annotations/training/b.png"
    if content is None:
        Image.fromarray(np.zeros((12, 5, 3), np.uint8)).save(file)
    else:
        file.write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"b\.png.*{message}"):
        segmentation_folder(ade, num_classes=3).read(np.array([1]))


def test_what_is_missing_is_named(ade, tmp_path_factory):
    with pytest.raises(DatasetNotFoundError, match=r"images.validation is not there"):
        segmentation_folder(ade, "validation")
    (ade / "annotations/training/c.png").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"lacks 1 label maps: c\.png"):
        segmentation_folder(ade)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "images/training").mkdir(parents=True)
    (empty / "annotations/training").mkdir(parents=True)
    with pytest.raises(DatasetNotFoundError, match="holds no picture"):
        segmentation_folder(empty)
    with pytest.raises(InvalidInputError, match=r"num_classes must be in 2\.\.255, got 300"):
        segmentation_folder(ade, num_classes=300)


def test_nearest_neighbours_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    labels = np.random.default_rng(1).integers(0, 9, (7, 5), np.uint8)
    for size in [(7, 5), (3, 11), (14, 4), (20, 20)]:
        expected = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(nearest(labels, size), expected)
