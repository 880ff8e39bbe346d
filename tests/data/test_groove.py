"""The Groove data in the layouts people have it, and the English texts."""

import io
import shutil
import tarfile
import zipfile

import pytest

import lab.data
from lab.data.groove import read_drum_texts, read_groove
from lab.data.text import read_text
from lab.errors import CorruptFileError, DatasetNotFoundError, InvalidInputError

HEAD = (
    "drummer,session,id,style,bpm,beat_type,time_signature,midi_filename,audio_filename,duration,"
    "split\n"
)
ROWS = [
    ("drummer1", "drummer1/session1", "1", "funk", "80", "beat", "4-4", "train"),
    ("drummer2", "drummer2/eval_session", "7", "latin/samba", "116", "fill", "4-4", "validation"),
]


def stem(row):
    return f"{row[2]}_{row[3].replace('/', '-')}_{row[4]}_{row[5]}_{row[6]}"


def table():
    lines = []
    for row in ROWS:
        drummer, session, number, style, bpm, kind, meter, split = row
        path = f"{session}/{stem(row)}.mid"
        name = f"{session}/{number}"
        lines.append(f"{drummer},{session},{name},{style},{bpm},{kind},{meter},{path},,1.0,{split}")
    return HEAD + "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "groove"
    for row in ROWS:
        path = root / row[1] / f"{stem(row)}.mid"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"MThd" + row[0].encode())
    (root / "info.csv").write_text(table())
    return root


def check(files):
    assert [f.name for f in files] == ["1_1_funk_80_beat_4-4", "2_7_latin-samba_116_fill_4-4"]
    assert [f.session for f in files] == ["session1", "eval_session"]
    assert [f.split for f in files] == ["train", "validation"]
    assert files[1].midi == b"MThddrummer2"
    assert files[1].style == "latin/samba"
    assert files[0].bpm == 80.0


def test_a_folder_a_tar_and_a_zip_give_the_same(folder, tmp_path):
    check(read_groove(folder))
    check(read_groove(folder / "info.csv"))
    with tarfile.open(tmp_path / "g.tar.gz", "w:gz") as archive:
        archive.add(folder, "groove")
    check(read_groove(tmp_path / "g.tar.gz"))
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, f"groove/{path.relative_to(folder)}")
    check(read_groove(tmp_path / "g.zip"))


def test_the_table_of_a_sister_data_set_may_have_its_own_name(folder):
    (folder / "info.csv").rename(folder / "e-gmd-v1.0.0.csv")
    check(read_groove(folder))


def test_the_catalogue_finds_it(folder):
    check(lab.data.load("groove", data_dir=folder.parent))


def test_a_folder_of_tensorflow_datasets_gives_the_same(tmp_path):
    pytest.importorskip("array_record")
    import numpy as np
    import tensorflow_datasets as tfds

    class Groove(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.0.1")
        code_path = None  # where the builder's own checksums would lie
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="full-midionly", version="2.0.1"),)

        def _info(self):
            label = tfds.features.ClassLabel
            features = {
                "id": np.str_,
                "drummer": label(names=[f"drummer{d}" for d in range(1, 11)]),
                "type": label(names=["beat", "fill"]),
                "bpm": np.int32,
                "time_signature": label(names=["3-4", "4-4", "5-4", "5-8", "6-8"]),
                "style": {"primary": label(names=["funk", "latin"]), "secondary": np.str_},
                "midi": np.str_,
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {row[7]: self._generate_examples(row) for row in ROWS}

        def _generate_examples(self, row):
            primary, _, secondary = row[3].partition("/")
            yield (
                0,
                {
                    "id": f"{row[1]}/{row[2]}",
                    "drummer": row[0],
                    "type": row[5],
                    "bpm": int(row[4]),
                    "time_signature": row[6],
                    "style": {"primary": primary, "secondary": secondary},
                    "midi": b"MThd" + row[0].encode(),
                },
            )

    Groove(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    check(lab.data.load("groove", data_dir=tmp_path))
    info = next(tmp_path.glob("groove/full-midionly/*/dataset_info.json"))
    info.write_text("{}")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        read_groove(info)


def test_damage_is_told(folder, tmp_path):
    with pytest.raises(DatasetNotFoundError):
        read_groove(tmp_path / "none.tar.gz")
    (tmp_path / "bad.tar.gz").write_bytes(b"\x1f\x8bnot gzip")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        read_groove(tmp_path / "bad.tar.gz")
    (folder / "info.csv").write_text(table().replace("train", "holdout"))
    with pytest.raises(CorruptFileError, match="split is 'holdout'"):
        read_groove(folder)
    (folder / "info.csv").write_text(table().replace("drummer1/session1/1_", "../1_"))
    with pytest.raises(CorruptFileError, match="names a file outside"):
        read_groove(folder)
    (folder / "info.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CorruptFileError, match=r"lacks \['beat_type'"):
        read_groove(folder)
    (folder / "info.csv").write_text(table())
    shutil.rmtree(folder / "drummer2")
    with pytest.raises(CorruptFileError, match="lacks drummer2"):
        read_groove(folder)


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_released_texts_lie_beside_the_data(tmp_path):
    with tarfile.open(tmp_path / "drumroll_text.tar.gz", "w:gz") as archive:
        add(archive, "drumroll/dev/1_a.txt", b"o-----\n")
        add(archive, "drumroll/dev.jsonl", b"{}\n")
    found = read_drum_texts(tmp_path / "groove-v1.0.0-midionly.tar.gz")
    assert found.texts == {"train": {}, "dev": {"1_a": "o-----\n"}, "test": {}}
    assert found.rows == {"dev": "{}\n"}
    with pytest.raises(DatasetNotFoundError, match="can be made anew"):
        read_drum_texts(tmp_path / "elsewhere" / "groove" / "info.csv")


def test_english_texts_are_split_near_their_end(tmp_path):
    path = tmp_path / "english_pd.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        add(archive, "emma.txt", b"x" * 95 + b"y" * 5)
    assert read_text(path) == {"emma": "x" * 95}
    assert read_text(path, "validation") == {"emma": "y" * 5}
    with pytest.raises(InvalidInputError, match="split is 'test'"):
        read_text(path, "test")
    path.write_bytes(b"\xfd7zXZ\0")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        read_text(path)
    with pytest.raises(DatasetNotFoundError):
        read_text(tmp_path / "none.tar.xz")


@pytest.mark.real_data
def test_the_real_data_has_all_performances(require_dataset):
    require_dataset("groove")
    files = lab.data.load("groove")
    assert len(files) == 1150
    assert sum(f.kind == "beat" for f in files) == 503
