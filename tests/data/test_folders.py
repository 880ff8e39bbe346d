import io
import os
import zipfile

import numpy as np
import pytest

import lab.data
from lab.data.folders import decode, image_archive, image_folder
from lab.data.streams import in_order, stream
from lab.errors import CorruptFileError, DatasetNotFoundError, InvalidInputError

Image = pytest.importorskip("PIL.Image")


def picture(height=6, width=8, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(array, form="PNG", mode="RGB"):
    out = io.BytesIO()
    Image.fromarray(array.squeeze()).convert(mode).save(out, form)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Two classes of two and three pictures, the second picture of "b" being tall."""
    for name, seeds in (("b", (2, 3, 4)), ("a", (0, 1))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            size = (8, 5) if seed == 3 else (6, 8)
            (tmp_path / name / f"{seed}.png").write_bytes(encoded(picture(*size, seed)))
    (tmp_path / "a" / "notes.txt").write_text("not a picture")
    return tmp_path


def test_classes_are_the_sorted_folders_and_pictures_lie_in_the_corner_of_a_canvas(folder):
    source = image_folder(folder, canvas=10)
    assert (len(source), source.classes) == (5, ("a", "b"))
    batch = source.read(np.array([0, 3]))
    assert batch["label"].tolist() == [0, 1]
    assert batch["size"].tolist() == [[6, 8], [8, 5]]
    np.testing.assert_array_equal(batch["image"][0, :6, :8], picture(seed=0))
    np.testing.assert_array_equal(batch["image"][1, :8, :5], picture(8, 5, seed=3))
    assert batch["image"][0, 6:].sum() == batch["image"][1, :, 5:].sum() == 0


def test_a_folder_of_mere_files_has_no_labels(folder):
    source = image_folder(folder / "b", canvas=8)
    assert source.labels is None
    assert set(source.read(np.arange(3))) == {"image", "size"}


def test_pictures_larger_than_the_canvas_are_scaled_down(folder):
    batch = image_folder(folder, canvas=4).read(np.array([0]))
    assert batch["size"].tolist() == [[3, 4]]
    expected = Image.fromarray(picture(seed=0)).resize((4, 3), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(batch["image"][0, :3], np.asarray(expected))


@pytest.mark.parametrize(("form", "mode"), [("PNG", "L"), ("JPEG", "L"), ("PNG", "P")])
def test_grey_and_palette_pictures_become_rgb(form, mode):
    content = encoded(np.full((4, 4, 3), 102, np.uint8), form, mode)  # in the web palette
    np.testing.assert_array_equal(decode(content, 8, "x"), np.full((4, 4, 3), 102))


def test_cmyk_becomes_rgb():
    image = decode(encoded(np.full((8, 8, 3), 200, np.uint8), "JPEG", "CMYK"), 8, "x")
    assert image.shape == (8, 8, 3)
    assert np.abs(image.astype(int) - 200).max() <= 2


def test_sixteen_bits_are_scaled_and_not_clipped():
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)).save(out, "PNG")
    np.testing.assert_array_equal(decode(out.getvalue(), 8, "x"), np.full((4, 4, 3), 100))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_picture_is_named_in_the_middle_of_an_epoch(folder, num_workers):
    path = folder / "b" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    batches = in_order(image_folder(folder, canvas=8), 1, num_workers=num_workers)
    assert [next(batches)["label"].item() for _ in range(3)] == [0, 0, 1]
    with pytest.raises(CorruptFileError, match=r"b/3\.png cannot be decoded"):
        next(batches)


def test_a_stream_of_a_folder_reads_every_picture(folder):
    batches = list(stream(image_folder(folder, canvas=8), 2, num_epochs=1, drop_remainder=False))
    labels = np.concatenate([b["label"][b["mask"] > 0] for b in batches])
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 1]


def test_an_empty_class_is_named(folder):
    (folder / "c").mkdir()
    with pytest.raises(InvalidInputError, match=r"without a picture in .*: c;"):
        image_folder(folder)


@pytest.mark.parametrize("read", [image_folder, image_archive])
def test_what_is_not_there_is_said(tmp_path, read):
    with pytest.raises(DatasetNotFoundError, match="absent is not a"):
        read(tmp_path / "absent")


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="holds no picture"):
        image_folder(tmp_path)


def archive(path, members, table=None):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
        if table:
            file.writestr("labels.csv", table)
    return path


def test_an_archive_has_the_labels_of_its_table(tmp_path):
    members = {f"images/{n}.png": encoded(picture(seed=i)) for i, n in enumerate("xy")}
    path = archive(tmp_path / "a.zip", members, "file,label,class_name\nx.png,3,cat\ny.png,1,dog\n")
    source = image_archive(path, canvas=8)
    assert source.labels.tolist() == [3, 1]
    assert source.classes == ("", "dog", "", "cat")
    batch = next(stream(source, 2, shuffle=False, num_workers=1))
    np.testing.assert_array_equal(batch["image"][1, :6], picture(seed=1))


def test_an_archive_of_class_folders_is_labelled_by_them(tmp_path):
    members = {f"train/{n}/1.png": encoded(picture()) for n in ("n02", "n01")}
    source = image_archive(archive(tmp_path / "a.zip", members))
    assert (source.labels.tolist(), source.classes) == ([0, 1], ("n01", "n02"))


def test_damaged_archives_are_named(tmp_path):
    path = archive(tmp_path / "a.zip", {"x.png": b"no picture"})
    with pytest.raises(CorruptFileError, match=r"a\.zip: x\.png cannot be decoded"):
        image_archive(path).read(np.array([0]))
    path.write_bytes(b"no archive")
    with pytest.raises(CorruptFileError, match=r"a\.zip is not a readable zip"):
        image_archive(path)
    table = archive(tmp_path / "b.zip", {"x.png": encoded(picture())}, "file,label\nother.png,1\n")
    with pytest.raises(CorruptFileError, match=r"no label for 'x\.png'"):
        image_archive(table)


needs_data = pytest.mark.skipif(
    not os.environ.get("LAB_DATA_DIR"),
    reason="needs imagenet_sample and kodak below $LAB_DATA_DIR; `python -m experiments data`",
)


@needs_data
@pytest.mark.real_data
def test_the_imagenet_sample_has_one_picture_a_class():
    images, labels = lab.data.load("imagenet_sample")
    assert images.shape == (1000, 160, 160, 3)
    assert labels.tolist() == list(range(1000))
    np.testing.assert_allclose(
        images.mean(axis=(0, 1, 2)) / 255, [0.491, 0.462, 0.413], atol=1e-3
    )  # as the publisher of this copy states


@needs_data
@pytest.mark.real_data
def test_kodak_has_its_24_photographs():
    shapes = [image.shape for image in lab.data.load("kodak")]
    assert len(shapes) == 24
    assert set(shapes) == {(256, 384, 3), (384, 256, 3)}
