"""What a network knows: a classifier's accuracy and robustness, probes of frozen features.

    python -m experiments.tinymim score --folder imagenet/val --imagenet-a imagenet-a \\
        --imagenet-c imagenet-c --weights runs/tinymim/finetune-default/student.safetensors
    python -m experiments.tinymim probe --folder classes/train --test-folder classes/val \\
        --weights runs/tinymim/distill-default/student.safetensors
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.tinymim.folder import load_classifier, logits_of
from experiments.tinymim.verbs import Reading, given, run_verb, running
from lab.data.folders import ImageFolder, image_folder
from lab.data.streams import in_order
from lab.errors import require
from lab.files import write_atomically
from lab.interop import load_checkpoint
from lab.nn.vit import ViTConfig, last_output
from lab.papers import tinymim
from lab.papers.tinymim.metrics import topk_accuracy
from lab.papers.tinymim.probes import check_features, linear_probe_accuracy
from lab.papers.tinymim.robustness import collect_logits, evaluate_corruptions, evaluate_subset
from lab.papers.tinymim.views import evaluation_views, pretraining_views
from lab.report import Run

SCORES = "scores.json"


@dataclasses.dataclass(frozen=True)
class Networked(Reading):
    """What both commands need."""

    weights: Annotated[Path, tyro.conf.arg(help_behavior_hint="(required)")] = Path()
    """The network's weights."""
    num_heads: int | None = None
    """Heads of all blocks, if not those of the usual ViT of this width."""
    image_size: int = 224
    """Side of what the network sees, pixels."""


@dataclasses.dataclass(frozen=True)
class Score(Networked):
    """Measures a fine-tuned classifier: top-1, top-5, ImageNet-A, -R and -C."""

    imagenet_a: Path | None = None
    """Class folders of ImageNet-A, decided among its own classes."""
    imagenet_r: Path | None = None
    """Class folders of ImageNet-R, likewise."""
    imagenet_c: Path | None = None
    """<corruption>/<severity>/<class>/* of ImageNet-C."""


@dataclasses.dataclass(frozen=True)
class Probe(Networked):
    """Measures frozen features on class folders: linear probe, logistic regression, neighbours."""

    test_folder: Annotated[Path, tyro.conf.arg(help_behavior_hint="(required)")] = Path()
    """Class folders to measure on."""
    block: int | None = None
    """Whose output is probed, 1-based; by default the network's last output."""
    pooling: Literal["mean", "cls"] = "mean"
    """The mean of the patch tokens, or the class token."""
    views: int = 1
    """Random crops of each training picture for the linear probe."""
    epochs: int = 90
    """Passes of the linear probe, a ninth of them to warm up."""
    base_rate: float = 0.1
    """The linear probe's learning rate a batch of 256."""
    probe_batch_size: int = 16384
    """Its batch, at most all pictures."""
    neighbours: int = 20
    """How many vote."""


def score(args: list[str]) -> int:
    """`python -m experiments.tinymim score`."""
    return run_verb("score", Score, _score, args)


def probe(args: list[str]) -> int:
    """`python -m experiments.tinymim probe`."""
    return run_verb("probe", Probe, _probe, args)


def _score(config: Score, run: Run) -> None:
    source = image_folder(config.folder, canvas=config.canvas)
    classifier, variables = load_classifier(config.weights, "--weights", None, config)
    require(
        len(source.classes) == classifier.num_classes,
        f"{config.folder} must have a folder for each of the {classifier.num_classes} classes, it "
        f"has {len(source.classes)}",
    )
    apply = logits_of(classifier)

    @jax.jit
    def logits_fn(images, sizes):
        raw = {"image": images, "size": sizes}
        return apply(variables, evaluation_views(raw, size=config.image_size)["images"])

    options = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    logits, labels = collect_logits(logits_fn, source, **options)
    scores = {"top-1": topk_accuracy(logits, labels)}
    if classifier.num_classes > 5:
        scores["top-5"] = topk_accuracy(logits, labels, 5)
    options["canvas"] = config.canvas
    for name, root in (("ImageNet-A", config.imagenet_a), ("ImageNet-R", config.imagenet_r)):
        if root is not None:
            scores[name] = evaluate_subset(logits_fn, root, source.classes, **options)
    if config.imagenet_c is not None:
        errors = evaluate_corruptions(logits_fn, config.imagenet_c, source.classes, **options)
        scores |= {"ImageNet-C mean error": errors["mean_error"], "ImageNet-C mCE": errors["mce"]}
    _tell(run, scores)


def _probe(config: Probe, run: Run) -> None:
    train = image_folder(config.folder, canvas=config.canvas)
    test = image_folder(config.test_folder, canvas=config.canvas)
    require(
        train.classes == test.classes and len(train.classes) > 1,
        f"{config.folder} and {config.test_folder} must have the same class folders, two or more",
    )
    arrays = load_checkpoint(given(config.weights, "--weights"))
    encoder = tinymim.vit_config_of(
        arrays, image_size=config.image_size, num_heads=config.num_heads, **running(config)
    )
    variables, _ = tinymim.from_official(arrays, encoder)
    features = functools.partial(_features, config, encoder, variables)
    plain, labels = features(train)
    views = jnp.stack([features(train, view)[0] for view in range(config.views)])
    check_features(views, labels, len(train.classes))
    _tell(run, _probed(config, views, plain, labels, *features(test)))


def _probed(config: Probe, views, plain, labels, test_features, test_labels) -> dict[str, float]:
    """Test accuracy of every probe."""
    num_classes = int(labels.max()) + 1
    linear = tinymim.LinearProbe(
        num_classes=num_classes,
        epochs=config.epochs,
        warmup_epochs=config.epochs / 9,
        base_rate=config.base_rate,
        batch_size=config.probe_batch_size,
    )
    key = jax.random.key(config.seed)
    trained, _ = jax.jit(functools.partial(tinymim.train_linear_probe, linear))(views, labels, key)
    logistic = jax.jit(tinymim.logistic_probe_accuracy, static_argnums=4)
    votes = tinymim.knn_predict(
        plain, labels, test_features, num_classes, k=min(config.neighbours, len(labels))
    )
    return {
        "linear probe": float(linear_probe_accuracy(trained, test_features, test_labels)),
        "logistic regression": float(
            logistic(plain, labels, test_features, test_labels, num_classes)
        ),
        f"{config.neighbours}-NN": float(np.mean(np.asarray(votes) == test_labels)),
    }


def _features(
    config: Probe, encoder: ViTConfig, variables: Any, source: ImageFolder, view: int | None = None
) -> tuple[jax.Array, np.ndarray]:
    """Features float32 [N, D] and labels int [N]; of random crops where a view is numbered."""
    name = last_output(encoder) if config.block is None else f"block{config.block}/block"

    @jax.jit
    def of_batch(key, raw):
        if view is None:
            images = evaluation_views(raw, size=config.image_size)["images"]
        else:
            images = pretraining_views(key, raw, size=config.image_size)["images"]
        return tinymim.pooled_features(encoder, variables, images, name, pooling=config.pooling)

    found, labels = [], []
    root = jax.random.fold_in(jax.random.key(config.seed), 0 if view is None else view)
    batches = in_order(source, config.batch_size, num_workers=config.num_workers)
    for place, raw in enumerate(batches):
        real = raw["mask"] > 0
        labels.append(raw["label"][real])
        found.append(np.asarray(of_batch(jax.random.fold_in(root, place), raw))[real])
    return jnp.asarray(np.concatenate(found)), np.concatenate(labels)


def _tell(run: Run, scores: dict[str, float]) -> None:
    """Prints the scores and keeps them in the run folder."""
    path = run.folder / SCORES
    write_atomically(path, json.dumps(scores, indent=1) + "\n")
    for name, value in scores.items():
        print(f"{name}: {100 * value:.2f}%")
    print(f"scores: {path}")
