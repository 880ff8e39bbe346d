"""From teacher to student to smaller student to classifier."""

import dataclasses

import jax
import numpy as np
import pytest

from lab.errors import InvalidInputError
from lab.nn.vit import ViT, ViTConfig, vit_config
from lab.papers.tinymim import (
    STAGES,
    ClassifierConfig,
    Distillation,
    distillation_loss_fn,
    encoder_of,
    finetuning_backbone,
    start_classifier,
    student_config,
)
from lab.papers.tinymim.distill import target_heads
from lab.papers.tinymim.stages import finetuning_recipe
from tests.papers.tinymim.networks import (
    STUDENT,
    TEACHER,
    pictures,
    quick_jit,
    random_variables,
    scanned,
)


def test_released_stages_have_the_released_heads():
    heads = {stage.size: stage.student().heads for stage in STAGES}
    assert heads["B"] == (12,) * 11 + (16,)
    assert heads["S"] == heads["T"] == (6,) * 11 + (12,)
    for stage in STAGES:
        teacher = vit_config(stage.teacher)
        student = student_config(stage.distillation, stage.student(), teacher)
        assert student.encoder == stage.student()
        assert student.encoder.drop_path_rate == 0.1


@pytest.mark.parametrize(
    ("width", "expected"),
    [(768, (5e-4, 0.65, 0.2, 100)), (384, (1e-3, 0.75, 0.1, 200)), (192, (1e-3, 0.75, 0.0, 200))],
)
def test_each_size_has_its_recipe_of_finetuning(width, expected):
    recipe = finetuning_recipe(width)
    found = recipe.base_rate, recipe.layer_decay, recipe.drop_path, recipe.epochs
    assert found == expected
    assert recipe.min_rate == 1e-6
    assert finetuning_recipe(width + 8) == recipe


def test_a_chain_of_students_runs_with_its_head_counts():
    """8 -> 6 -> 4 heads: each student teaches the next with the heads it was given."""
    sizes = ViTConfig(image_size=8, patch_size=4, width=24, depth=2, num_heads=8, scan=True)
    teacher, teacher_variables = sizes, random_variables(sizes)
    chain = (
        (dataclasses.replace(sizes, num_heads=6), None, 8),
        (dataclasses.replace(sizes, width=12, num_heads=4), 6, 6),
    )
    for student, heads, expected in chain:
        config = Distillation(teacher_target_heads=heads)
        pair = student_config(config, student, teacher)
        assert target_heads(config, teacher) == pair.encoder.heads[-1] == expected
        variables = random_variables(pair, 2)
        frozen = {"constants": variables["constants"], "teacher": teacher_variables}
        loss, _ = quick_jit(distillation_loss_fn(config, pair, teacher))(
            variables["params"], frozen, {"images": pictures(2)}, jax.random.key(0)
        )
        assert np.isfinite(loss)
        assert loss > 0
        teacher, teacher_variables = pair.encoder, encoder_of(variables)


def test_an_encoder_is_found_in_a_students_variables():
    student = student_config(Distillation(target="feature"), STUDENT, TEACHER)
    variables = random_variables(student)
    encoder = encoder_of(variables)
    shapes = jax.eval_shape(ViT(STUDENT).init, jax.random.key(0), pictures())
    assert jax.tree.map(np.shape, encoder) == jax.tree.map(lambda s: s.shape, shapes)
    with pytest.raises(InvalidInputError, match="no encoder among"):
        encoder_of({"params": {"head": {}}})


@pytest.mark.parametrize("pooling", ["global", "cls"])
def test_a_classifier_starts_from_the_encoder_and_gives_its_features(pooling):
    encoder = STUDENT.with_last_block_heads(4)
    backbone = finetuning_backbone(
        scanned(encoder), num_heads=2, pooling=pooling, drop_path_rate=0.1
    )
    assert backbone.heads == (2, 2)
    assert backbone.position == "learned"
    config = ClassifierConfig(backbone, 5, pooling)
    pretrained = random_variables(STUDENT)
    started = start_classifier(pretrained, config, jax.random.key(0))
    names = ("block2/block", "norm")[: 1 + backbone.final_norm]
    apply = quick_jit(lambda v, x: ViT(backbone).apply(v, x, names))
    out = apply({"params": started["params"]["backbone"]}, pictures())
    expected = quick_jit(lambda v, x: ViT(STUDENT).apply(v, x, names))(pretrained, pictures())
    for name in names:
        np.testing.assert_allclose(out[name], expected[name], atol=1e-5)
    assert np.abs(started["params"]["head"]["kernel"]).max() < 1e-3


def test_a_classifier_of_larger_pictures_gets_a_larger_table():
    backbone = finetuning_backbone(STUDENT, image_size=12)
    started = start_classifier(
        random_variables(STUDENT), ClassifierConfig(backbone, 5), jax.random.key(0)
    )
    assert started["params"]["backbone"]["pos_embed"].shape == (1, 37, 12)


def test_a_frozen_backbone_keeps_its_table_out_of_the_parameters():
    backbone = finetuning_backbone(STUDENT, position="fixed")
    started = start_classifier(
        random_variables(STUDENT), ClassifierConfig(backbone, 5), jax.random.key(0)
    )
    table = started["constants"]["backbone"]["pos_embed"]
    np.testing.assert_array_equal(table, random_variables(STUDENT)["constants"]["pos_embed"])
