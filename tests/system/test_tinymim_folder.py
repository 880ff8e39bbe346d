"""The commands on a folder of one's own pictures, from weights to weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.tinymim import VERBS
from lab.interop import load_checkpoint, save_safetensors
from lab.nn.vit import SIZES, ViTConfig, vit_config
from lab.papers import tinymim
from lab.papers.tinymim.data import shapes12
from lab.train import Checkpoints

TEACHER = ViTConfig(image_size=32, patch_size=16, width=24, depth=2, num_heads=6)
PRETRAINED = "runs/tinymim/pretrain-default/student.safetensors"
FLAGS = ["--image-size", "32", "--batch-size", "4", "--canvas", "32", "--warmup-epochs", "0.5"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes of six pictures in several formats, a teacher's weights, a small T."""
    monkeypatch.setitem(SIZES, "T", {"width": 24, "depth": 2, "num_heads": 3})
    monkeypatch.chdir(tmp_path)
    pixels = np.clip(shapes12(0, 12, 40).images * 64 + 128, 0, 255).astype(np.uint8)
    for i, image in enumerate(pixels):
        place = tmp_path / "pictures" / ("round", "square")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(image)
        kinds = ("L", "RGB", "CMYK")
        picture.convert(kinds[i % 3]).save(place / f"{i}.jpg")
    variables = tinymim.init_variables(TEACHER, jax.random.key(0))
    save_safetensors("teacher.safetensors", tinymim.to_official(variables, TEACHER, naming="timm"))
    return tmp_path


def distil(*more):
    return VERBS["distill"](
        [
            "--folder",
            "pictures",
            "--teacher",
            "teacher.safetensors",
            "--teacher-heads",
            "6",
            "--epochs",
            "2",
            *FLAGS,
            *more,
        ]
    )


def finetune(*more):
    weights = ["--weights", PRETRAINED, "--num-heads", "3"]
    return VERBS["finetune"](["--folder", "pictures", *weights, *FLAGS, *more])


def test_a_folder_and_a_teacher_give_a_student_that_timm_loads(folder, capsys):
    assert distil() == 0
    said = capsys.readouterr().out
    assert "6 steps" in said
    path = folder / "runs/tinymim/distill-default/student.safetensors"
    arrays = load_checkpoint(path)
    expected = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.1.attn.qkv.weight"}
    assert expected <= set(arrays)
    config = tinymim.vit_config_of(arrays, num_heads=3)
    assert (config.width, config.depth, config.patch_size) == (24, 2, 16)
    assert config.position == "fixed"
    _, report = tinymim.from_official(arrays, config)
    assert report.is_clean
    begun = initial_weights()
    # what relations reach has moved, what lies behind them is as it was
    parts = {
        "blocks.1.attn.qkv.weight": True,
        "blocks.1.attn.proj.weight": False,
        "blocks.0.mlp.fc2.weight": True,
        "norm.weight": False,
    }
    for name, is_moved in parts.items():
        assert np.array_equal(arrays[name], begun[name]) != is_moved, name


def initial_weights():
    """The student as `distill` begins with it."""
    options = {"image_size": 32, "scan": True, "num_heads": 6}
    student = vit_config("T", patch_size=16, drop_path_rate=0.1,
                         drop_path_schedule="all_but_last", **options)  # fmt: skip
    teacher = dataclasses.replace(TEACHER, scan=True)
    model = tinymim.student_config(tinymim.Distillation(), student, teacher)
    variables = tinymim.encoder_of(tinymim.init_variables(model, jax.random.key(0)))
    return tinymim.to_official(variables, model.encoder, naming="timm")


def test_errors_are_one_line(folder, capsys):
    assert distil("--batch-size", "400") == 2
    assert "fewer than a batch: lower --batch-size" in capsys.readouterr().err
    assert distil("--teacher", "absent.pth") == 2
    assert "--teacher absent.pth is not a file" in capsys.readouterr().err
    assert distil("--teacher-heads", "5") == 2
    assert "must divide the width 24" in capsys.readouterr().err
    (folder / "pictures/round/broken.jpg").write_bytes(b"no picture")
    assert distil() == 2
    assert "broken.jpg cannot be decoded" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_distillation_ends_as_an_undisturbed_one(folder, monkeypatch):
    assert distil("--name", "whole") == 0
    saves = Checkpoints.save

    def interrupt(self, step, *args, **kwargs):
        saves(self, step, *args, **kwargs)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", interrupt)
    assert distil("--name", "cut", "--save-every", "3") == 130
    monkeypatch.setattr(Checkpoints, "save", saves)
    assert distil("--name", "cut", "--save-every", "3", "--resume") == 0
    runs = folder / "runs/tinymim"
    whole, cut = (
        load_checkpoint(runs / f"distill-{name}/student.safetensors") for name in ("whole", "cut")
    )
    for name in whole:
        np.testing.assert_array_equal(cut[name], whole[name], err_msg=name)


@pytest.mark.slow
def test_pretraining_goes_on_and_a_classifier_is_tuned(folder, capsys):
    code = VERBS["pretrain"](
        ["--folder", "pictures", "--size", "T", "--epochs", "1", "--mask-ratio", "0.5", *FLAGS]
    )
    assert code == 0
    assert finetune("--epochs", "2", "--eval-every", "3", "--ema-decay", "0.5") == 0
    assert "accuracy" in capsys.readouterr().out
    place = folder / "runs/tinymim/finetune-default"
    arrays = load_checkpoint(place / "student.safetensors")
    assert arrays["head.weight"].shape == (2, 24)
    assert Checkpoints(place / "checkpoints").latest() == 6
    read = ["--image-size", "32", "--batch-size", "4", "--canvas", "32", "--num-heads", "3"]
    tuned = ["--weights", str(place / "student.safetensors"), "--imagenet-a", "pictures"]
    code = VERBS["score"](["--folder", "pictures", *tuned, *read])
    assert code == 0
    scores = json.loads((folder / "runs/tinymim/score-default/scores.json").read_text())
    # decided among all classes, which are the subset's own
    assert scores["ImageNet-A"] == scores["top-1"]
    frozen = ["--weights", PRETRAINED, "--test-folder", "pictures", "--epochs", "9"]
    code = VERBS["probe"](["--folder", "pictures", *frozen, *read])
    assert code == 0
    scores = json.loads((folder / "runs/tinymim/probe-default/scores.json").read_text())
    assert set(scores) == {"linear probe", "logistic regression", "20-NN"}
    assert scores["logistic regression"] > 0.5


@pytest.mark.slow
def test_a_segmenter_is_tuned_and_measured_again_from_its_file(folder, capsys):
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for place in ("images", "annotations"):
            (folder / "scenes" / place / split).mkdir(parents=True)
        for i in range(4):
            labels = rng.integers(0, 3, (40, 48), np.uint8)
            picture = np.repeat(labels[..., None] * 80, 3, axis=-1)
            Image.fromarray(picture).save(folder / f"scenes/images/{split}/{i}.png")
            Image.fromarray(labels).save(folder / f"scenes/annotations/{split}/{i}.png")
    flags = ["--folder", "scenes", "--num-classes", "2", "--image-size", "32", "--stride", "16",
             "--longest", "64", "--canvas", "48", "--width", "8", "--num-heads", "6"]  # fmt: skip
    deep = dataclasses.replace(TEACHER, depth=6)
    variables = tinymim.init_variables(deep, jax.random.key(0))
    save_safetensors("deep.safetensors", tinymim.to_official(variables, deep))
    train = ["--weights", "deep.safetensors", "--iterations", "2", "--warmup", "1"]
    assert VERBS["segment"]([*flags, *train, "--batch-size", "2"]) == 0
    said = capsys.readouterr().out
    assert "miou" in said
    whole = "runs/tinymim/segment-default/segmenter.safetensors"
    assert VERBS["segment"]([*flags, "--weights", whole, "--iterations", "0"]) == 0
    again = capsys.readouterr().out
    measured = float(again.split("miou ")[1].split("%")[0])
    assert measured == pytest.approx(100 * float(said.split("miou ")[1].split(",")[0]), abs=0.1)
