"""TinyMIM: small ViTs learn the token relations of a masked-image-modelling teacher.

    python -m experiments.tinymim                      # generated shapes, about a minute
    python -m experiments.tinymim bench                # shapes12, CIFAR-10, ImageNet pictures
    python -m experiments.tinymim quick --distillation.target-block 3 --distillation.no-softmax
    python -m experiments.tinymim distill --folder my/pictures --teacher mae_vit_base.safetensors

The science is in `lab.papers.tinymim`; here are presets, the order of things, claims and pictures.
"""

import dataclasses

from lab.papers.tinymim.distill import Distillation

TITLE = "TinyMIM"
SUMMARY = (
    "Distils a large vision transformer that was pre-trained by masked image modelling into a "
    "small one, by the relations between its tokens."
)
NEEDS = {"bench": ("cifar10", "imagenet_sample"), "paper": ()}


@dataclasses.dataclass(frozen=True)
class Network:
    """The size of a transformer."""

    width: int
    """Channels of a token."""
    depth: int
    """Number of blocks."""
    num_heads: int
    """Attention heads of a block."""


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Pictures of one study."""

    image_size: int = 24
    """Side of a generated picture, pixels; CIFAR-10's are 32."""
    patch_size: int = 4
    """Side of a patch, pixels."""
    num_unlabeled: int = 6000
    """Pictures to pre-train and distil on."""
    num_labeled: int = 1000
    """Pictures to fine-tune and probe on."""
    num_test: int = 2000
    """Pictures to measure accuracy on."""


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """MAE and distillation: AdamW (0.9, 0.95) with warm-up and half a cosine."""

    batch_size: int = 64
    """Pictures a step."""
    learning_rate: float = 2e-3
    """Its peak."""
    warmup: float = 0.05
    """Share of the steps that the rate rises in."""
    weight_decay: float = 0.05
    """Decoupled decay of weights and tokens."""
    mask_ratio: float = 0.75
    """Share of the patches that MAE hides."""
    teacher_steps: int = 1200
    """Steps of the teacher's MAE."""
    mae_steps: int = 600
    """Steps of the baseline: a student that is an MAE itself."""
    distill_steps: int = 480
    """Steps of each distillation."""


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """Classification with few labels: AdamW (0.9, 0.999)."""

    num_steps: int = 240
    """Steps."""
    batch_size: int = 64
    """Pictures a step."""
    learning_rate: float = 2e-3
    """Its peak."""
    warmup: float = 0.05
    """Share of the steps that the rate rises in."""
    weight_decay: float = 0.05
    """Decoupled decay of weights."""
    layer_decay: float = 1.0
    """Factor of the rate from each layer to the one below it; the paper's ViT-B has 0.65."""
    drop_path: float = 0.0
    """Of the last block, rising linearly from 0."""
    label_smoothing: float = 0.1
    """Share of the target that goes to all classes alike."""
    num_evaluations: int = 3
    """How often the test accuracy is measured on the way; the best one is reported beside the
    last, as the official code reports the best."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A teacher is pre-trained, students learn from it in every way, and are compared."""

    datasets: tuple[str, ...] = ("shapes12", "cifar10")
    """shapes12 (generated) or cifar10; the ablations are on the first."""
    shapes12: PictureSet = PictureSet()
    """The generated pictures."""
    cifar10: PictureSet = PictureSet(32, 8, 20_000, 2000, 2000)
    """The real ones."""
    teacher: Network = Network(64, 6, 8)
    """Encoder that is pre-trained as an MAE."""
    student: Network = Network(32, 4, 4)
    """Encoder that is distilled."""
    middle: Network = Network(48, 4, 6)
    """Encoder between the two in sequential distillation (C8)."""
    decoder: Network = Network(48, 2, 4)
    """MAE's decoder."""
    distillation: Distillation = dataclasses.field(
        default_factory=lambda: Distillation(target_block=4)
    )
    """What is distilled; the arms below change its target."""
    drop_path: float = 0.1
    """Of the student, in all blocks but the last."""
    teacher_drop_path: float = 0.0
    """Of the teacher while it is distilled from."""
    arms: tuple[str, ...] = ("mae", "cls", "cls_whitened", "feature", "relation")
    """Ways to pre-train the student that are fine-tuned and compared (see `arms.MAIN`)."""
    repeats: int = 3
    """Copies of each student, which differ in initialisation and draws and share a teacher."""
    pretraining: Pretraining = Pretraining()
    """How encoders are pre-trained."""
    finetuning: Finetuning = Finetuning()
    """How classifiers are trained."""
    ablations: tuple[str, ...] = ("C4", "C5", "C6", "C7", "C8", "C9", "C10", "heads")
    """Ablations to run (see `arms.ABLATIONS`)."""
    ablation_steps: int = 120
    """Steps of each distillation of the ablations."""
    ablation_batch_size: int = 64
    """Pictures a step of the ablations."""
    timed_sizes: tuple[str, ...] = ("T", "S", "B")
    """Students whose full-size distillation step at 224 px is timed."""
    timed_batch_size: int = 2
    """Pictures a step of those; 32 times as many on an accelerator."""
    streamed_steps: int = 12
    """Steps of a ViT-T student on streamed ImageNet pictures, to see how long it waits for data."""
    seed: int = 0
    """First seed."""


PRESETS = {
    "quick": Config(
        datasets=("shapes12",),
        shapes12=PictureSet(num_unlabeled=3000, num_labeled=1000, num_test=1000),
        teacher=Network(64, 4, 8),
        student=Network(32, 3, 4),
        distillation=Distillation(target_block=3),
        arms=("mae", "cls", "feature", "relation"),
        repeats=1,
        pretraining=Pretraining(teacher_steps=300, mae_steps=180, distill_steps=180),
        finetuning=Finetuning(num_steps=120),
        ablations=(),
        timed_sizes=(),
        streamed_steps=0,
    ),
    "bench": Config(),
    "paper": Config(
        datasets=(), arms=(), ablations=(), timed_sizes=("T", "S", "B"), streamed_steps=0
    ),
}


def main(config: Config, run):
    """Runs the study and judges the claims; returns a `lab.report.Result`."""
    from experiments.tinymim.report import study_result

    return study_result(config, run)


def speed_cases():
    """Distillation of three small students: in one compiled call, one at a time, by a loop."""
    from experiments.tinymim.speed import cases

    return cases()


def _pretrain(args: list[str]) -> int:
    """Goes on with (or begins) MAE pre-training on a folder of pictures."""
    from experiments.tinymim.folder import pretrain

    return pretrain(args)


def _distill(args: list[str]) -> int:
    """Distils a small ViT on a folder of pictures from a public teacher's weights."""
    from experiments.tinymim.folder import distill

    return distill(args)


def _finetune(args: list[str]) -> int:
    """Fine-tunes weights as a classifier on class folders."""
    from experiments.tinymim.folder import finetune

    return finetune(args)


def _segment(args: list[str]) -> int:
    """Trains UPerNet on pictures with label maps and measures its mIoU."""
    from experiments.tinymim.segment import segment

    return segment(args)


def _score(args: list[str]) -> int:
    """Measures a classifier's accuracy and robustness (ImageNet-A, -R, -C)."""
    from experiments.tinymim.score import score

    return score(args)


def _probe(args: list[str]) -> int:
    """Measures frozen features: linear probe, logistic regression, neighbours."""
    from experiments.tinymim.score import probe

    return probe(args)


VERBS = {
    "pretrain": _pretrain,
    "distill": _distill,
    "finetune": _finetune,
    "segment": _segment,
    "score": _score,
    "probe": _probe,
}
