"""Semantic segmentation of one's own pictures, or of ADE20K, with a pre-trained ViT and UPerNet.

    python -m experiments.tinymim segment --folder ADEChallengeData2016 \\
        --weights runs/tinymim/distill-default/student.safetensors
    python -m experiments.tinymim segment --folder ADEChallengeData2016 \\
        --weights upernet_tinymim_base.pth --iterations 0                  # measure alone

The folder is laid out as ADE20K: images/training, annotations/training and the same with
`validation`. Weights come out in mmseg's names.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from experiments.tinymim.verbs import (
    AXIS,
    Training,
    export,
    fit_stream,
    given,
    optimizer_options,
    run_verb,
    running,
)
from lab.data.augment.scenes import SceneCrop
from lab.data.segmentation import SegmentationFolder, segmentation_folder
from lab.interop import load_checkpoint
from lab.papers import tinymim
from lab.papers.tinymim.convert import payload
from lab.papers.tinymim.convert_segmentation import from_mmseg, to_mmseg
from lab.papers.tinymim.segmentation import window_logits
from lab.papers.tinymim.sliding import SlidingConfig, evaluate_segmentation, make_predictor
from lab.papers.tinymim.views import segmentation_views, with_views
from lab.report import Run
from lab.train.schedules import warmup_polynomial

WEIGHTS = "segmenter.safetensors"
LAYER_DECAY, STARRED_LAYER_DECAY = 0.75, 0.8


@dataclasses.dataclass(frozen=True)
class Segment(Training):
    """Trains UPerNet on pictures with label maps (ADE20K's layout), and measures its mIoU."""

    weights: Annotated[Path, tyro.conf.arg(help_behavior_hint="(required)")] = Path()
    """A pre-trained or fine-tuned ViT, or a whole segmenter in mmseg's names to go on from."""
    num_heads: int | None = None
    """Heads of all blocks, if not those of the usual ViT of this width."""
    num_classes: int = 150
    """Of the label maps."""
    zero_is_unlabelled: bool = True
    """Label 0 is no class and k means class k - 1, as in ADE20K."""
    image_size: int = 512
    """Side of crops and windows, pixels."""
    stride: int = 341
    """Between windows of a test picture, pixels."""
    longest: int = 2048
    """Pictures are scaled into longest x image_size, keeping their ratio."""
    canvas: int = 1024
    """Pictures are scaled down to fit into a square of this side when they are read to train."""
    width: int = 768
    """Channels of UPerNet's head."""
    batch_size: int = 16
    """Pictures a step, of all devices and hosts together."""
    iterations: int = 160_000
    """Steps; 0 measures given weights of a whole segmenter."""
    warmup: int = 1500
    """Steps in which the learning rate rises."""
    rate: float = 1e-4
    """Peak of the learning rate."""
    layer_decay: float | None = None
    """Factor of the rate from each layer to the one below it; by default 0.75, starred 0.8."""
    drop_path: float = 0.1
    """Of the last block, rising linearly from 0."""
    auxiliary_weight: float = 0.4
    """Of the loss of the head that is thrown away afterwards."""
    valid_only: bool = False
    """The loss is a mean over labelled pixels; as released, over all pixels."""
    eval_every: int = 16_000
    """Steps between evaluations; the best checkpoint is kept."""


def segment(args: list[str]) -> int:
    """`python -m experiments.tinymim segment`."""
    return run_verb("segment", Segment, _segment, args)


def _segment(config: Segment, run: Run) -> None:
    network, variables = _network(config)
    test = _source(config, "validation")
    evaluate = _evaluation(config, network, test)
    if config.iterations == 0:
        scores = evaluate(variables)
        print(", ".join(f"{name} {100 * value:.2f}%" for name, value in scores.items()))
        run.log(0, **scores)
        return
    source = _source(config, "training")
    backbone = network.backbone
    default = LAYER_DECAY if backbone.expanded_width is None else STARRED_LAYER_DECAY
    decay = default if config.layer_decay is None else config.layer_decay
    updates = -(-config.iterations // config.accumulate)
    warmup = min(config.warmup // config.accumulate, updates // 2)
    tx = tinymim.segmentation_adamw(
        warmup_polynomial(config.rate, warmup, updates),
        backbone,
        layer_decay_rate=decay,
        **optimizer_options(config),
    )
    take_step = tinymim.make_segmentation_step(
        network,
        tx,
        auxiliary_weight=config.auxiliary_weight,
        valid_only=config.valid_only,
        axis_name=AXIS,
    )
    crop = SceneCrop(
        config.image_size, config.longest, config.image_size, num_classes=config.num_classes
    )
    fitted = fit_stream(
        config,
        run,
        with_views(take_step, functools.partial(segmentation_views, crop=crop), axis_name=AXIS),
        variables,
        tx,
        source,
        config.iterations,
        score="miou",
        evaluate=lambda state: evaluate({"params": state.params, **state.model_state}),
        eval_every=config.eval_every,
    )
    trained = {"params": fitted.state.params, **fitted.state.model_state}
    export(run.folder / WEIGHTS, to_mmseg(trained, network), fitted)


def _source(config: Segment, split: str) -> SegmentationFolder:
    return segmentation_folder(
        config.folder,
        split,
        num_classes=config.num_classes,
        canvas=config.canvas,
        zero_is_unlabelled=config.zero_is_unlabelled,
    )


def _network(config: Segment) -> tuple[tinymim.SegmenterConfig, dict[str, Any]]:
    """The segmenter, and its variables: those of the file, completed."""
    arrays = payload(load_checkpoint(given(config.weights, "--weights")))
    is_whole = any(name.startswith("decode_head.") for name in arrays)
    encoder_arrays = _backbone_of(arrays) if is_whole else arrays
    encoder = tinymim.vit_config_of(encoder_arrays, num_heads=config.num_heads, **running(config))
    depth = encoder.depth
    network = tinymim.SegmenterConfig(
        tinymim.segmentation_backbone(
            encoder, image_size=config.image_size, drop_path_rate=config.drop_path
        ),
        num_classes=config.num_classes,
        width=config.width,
        feature_blocks=(depth // 3, depth // 2, 2 * depth // 3, depth),
    )
    if is_whole:
        return network, from_mmseg(arrays, network)[0]
    loaded, _ = tinymim.from_official(arrays, encoder)
    return network, tinymim.start_segmenter(loaded, network, jax.random.key(config.seed))


def _backbone_of(arrays: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "backbone."
    return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}


def _evaluation(config: Segment, network: tinymim.SegmenterConfig, test: SegmentationFolder):
    """`variables -> {"miou", "macc", "aacc"}` over the whole validation set."""
    sliding = SlidingConfig(config.image_size, config.stride, config.longest, config.image_size)
    predict = make_predictor(functools.partial(window_logits, network), sliding)

    def scores(variables) -> dict[str, float]:
        measured = evaluate_segmentation(
            functools.partial(predict, variables), test.whole(), config.num_classes
        )
        return {name: float(measured[name]) for name in ("miou", "macc", "aacc")}

    return scores
