"""The study: a teacher is pre-trained, students learn from it, and each is probed and fine-tuned.

Every part is kept, so that a resumed run goes on behind the last one that was finished.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.tinymim import Config, PictureSet, training
from experiments.tinymim.arms import Arm, ablation_arms, main_arm, overridden
from lab.nn.vit import ViTConfig
from lab.papers import tinymim
from lab.papers.tinymim.data import Pictures, load_pictures
from lab.papers.tinymim.probes import knn_predict, logistic_probe_accuracy, pooled_features
from lab.report import Run

NUM_NEIGHBOURS = 20


@dataclasses.dataclass(frozen=True)
class Student:
    """A student as it was trained.

    Attributes: encoder; variables of the ViT with a leading axis of copies; losses, name -> float
      [copies, steps].
    """

    encoder: ViTConfig
    variables: Any
    losses: dict[str, np.ndarray]

    def copy(self, index: int) -> Any:
        """The variables of one copy."""
        return jax.tree.map(lambda x: x[index], self.variables)


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was measured on one picture set.

    Attributes:
      teacher: its MAE, one copy, with the decoder in `teacher_model`.
      students: of every arm.
      probes: arm -> {"block3": accuracies [copies], ..., "knn": ...}; "random" is a fresh student,
        "teacher" the teacher.
      finetuned: arm -> test accuracy [copies, evaluations]; "scratch" is not pre-trained.
    """

    pictures: Pictures
    teacher_model: tinymim.MAEConfig
    teacher: Student
    students: dict[str, Student]
    probes: dict[str, dict[str, list[float]]]
    finetuned: dict[str, np.ndarray]


def picture_set(config: Config, name: str) -> PictureSet:
    """The settings of a picture set."""
    return {"shapes12": config.shapes12, "cifar10": config.cifar10}[name]


@functools.lru_cache(maxsize=2)
def load(config: Config, name: str, data_dir: Any) -> Pictures:
    """The pictures of a study."""
    chosen = picture_set(config, name)
    return load_pictures(
        name,
        chosen.num_unlabeled,
        chosen.num_labeled,
        chosen.num_test,
        seed=config.seed,
        size=chosen.image_size,
        data_dir=data_dir,
    )


def kept_arrays(run: Run, name: str, compute: Callable[[], Any]) -> Any:
    """`Run.kept` of a pytree of dicts of float32 arrays."""

    def arrays(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: arrays(item) for key, item in value.items()}
        return np.asarray(value, np.float32)

    return arrays(run.kept(name, compute))


def trained(run: Run, name: str, num_steps: int, train: Callable[[training.OnSteps], Any]):
    """A kept training with its progress: (variables, losses)."""

    def compute():
        with run.progress(name, num_steps) as task:
            done_before = 0

            def on_steps(done: int, history: dict[str, np.ndarray]) -> None:
                nonlocal done_before
                last = {key: float(x[..., -1].mean()) for key, x in history.items()}
                losses = {key: x for key, x in last.items() if key not in ("finite", "grad_norm")}
                run.log(done, stage=name, **losses)
                task.advance(done - done_before, loss=last["loss"])
                done_before = done

            variables, losses = train(on_steps)
        return {"variables": variables, "losses": losses}

    found = kept_arrays(run, name, compute)
    return found["variables"], found["losses"]


def study(config: Config, run: Run, name: str) -> Findings:
    """Everything that is measured on one picture set but the ablations."""
    pictures = load(config, name, run.data_dir)
    patch_size = picture_set(config, name).patch_size
    model, teacher = train_teacher(config, run, name, pictures)
    student = training.student_of(config, pictures, patch_size)
    students = {
        arm: train_arm(main_arm(config, arm), run, f"{name}-{arm}", pictures, student, teacher, arm)
        for arm in config.arms
    }
    probes = run.kept(
        f"{name}-probes", lambda: probe_all(config, pictures, student, teacher, students)
    )
    finetuned = kept_arrays(
        run, f"{name}-finetuned", lambda: finetune_all(config, run, pictures, student, students)
    )
    return Findings(pictures, model, teacher, students, probes, finetuned)


def train_teacher(
    config: Config, run: Run, name: str, pictures: Pictures
) -> tuple[tinymim.MAEConfig, Student]:
    """The teacher's MAE, and it as one copy of a `Student` (variables with the decoder)."""
    patch_size, num_steps = picture_set(config, name).patch_size, config.pretraining.teacher_steps
    encoder = training.vit_of(pictures, patch_size, config.teacher)
    model = tinymim.MAEConfig(encoder, training.decoder_of(config))
    variables, losses = trained(
        run,
        f"{name}-teacher",
        num_steps,
        lambda on_steps: training.pretrain(
            config,
            pictures,
            training.mae_training(config, model, num_steps),
            num_steps,
            1,
            on_steps=on_steps,
        ),
    )
    return model, Student(encoder, variables, losses)


def train_arm(
    config: Config,
    run: Run,
    label: str,
    pictures: Pictures,
    student: ViTConfig,
    teacher: Student,
    arm: str,
) -> Student:
    """The copies of one arm: distilled, or MAEs themselves (which drop no path)."""
    if arm == "mae":
        num_steps, constants = config.pretraining.mae_steps, ()
        encoder = dataclasses.replace(student, drop_path_rate=0.0)
        model = tinymim.MAEConfig(encoder, training.decoder_of(config))
        way = training.mae_training(config, model, num_steps)
    else:
        num_steps, constants = config.pretraining.distill_steps, encoder_copy(teacher)
        encoder = training.distilled_encoder(config, student, teacher.encoder)
        way = training.distillation_training(config, student, teacher.encoder)
    variables, losses = trained(
        run,
        label,
        num_steps,
        lambda on_steps: training.pretrain(
            config, pictures, way, num_steps, config.repeats, constants, on_steps
        ),
    )
    return Student(encoder, tinymim.encoder_of(variables), losses)


def encoder_copy(teacher: Student) -> Any:
    """The first copy's variables of the encoder alone."""
    variables = teacher.copy(0)
    is_whole = "encoder" in variables["params"]
    return tinymim.encoder_of(variables) if is_whole else variables


def fresh_students(config: Config, student: ViTConfig) -> Any:
    """Untrained variables, one a copy."""
    keys = jax.random.split(jax.random.key(config.seed + 3), config.repeats)
    return training.stacked(training.init_copies(student, keys))


def probe_all(
    config: Config,
    pictures: Pictures,
    student: ViTConfig,
    teacher: Student,
    students: dict[str, Student],
) -> dict[str, dict[str, list[float]]]:
    """Logistic regression and neighbours on frozen features: of a fresh student, of every arm,
    of the teacher's last block."""
    found = {}
    fresh = fresh_students(config, student)
    for arm, one in ({"random": Student(student, fresh, {})} | students).items():
        found[arm] = probe(pictures, one, (student.depth - 1, student.depth))
    whole = jax.tree.map(lambda x: x[None], encoder_copy(teacher))
    found["teacher"] = probe(
        pictures, Student(teacher.encoder, whole, {}), (teacher.encoder.depth,)
    )
    return found


def probe(pictures: Pictures, student: Student, blocks: tuple[int, ...]) -> dict[str, list[float]]:
    """Test accuracy of a logistic probe on mean patch tokens of blocks, and of neighbours in the
    last of them, of every copy."""
    encoder = dataclasses.replace(student.encoder, drop_path_rate=0.0)  # one program for all arms
    train, test = (
        features(encoder, blocks, student.variables, pictures.normalised(images))
        for images in (pictures.train_images, pictures.test_images)
    )
    labels = pictures.train_labels, pictures.test_labels
    scores = {}
    for place, block in enumerate(blocks):
        scores[f"block{block}"] = [
            float(logistic_accuracy(a, labels[0], b, labels[1], pictures.num_classes))
            for a, b in zip(train[place], test[place], strict=True)
        ]
    scores["knn"] = [
        float(np.mean(neighbours(a, labels[0], b, pictures.num_classes) == labels[1]))
        for a, b in zip(train[-1], test[-1], strict=True)
    ]
    return scores


@functools.partial(jax.jit, static_argnums=(0, 1))
def features(
    encoder: ViTConfig, blocks: tuple[int, ...], variables: Any, images: jax.Array
) -> list[jax.Array]:
    """Mean patch tokens of each block, of every copy: float32 [copies, N, D] a block."""

    def of_copy(one: Any) -> list[jax.Array]:
        return [pooled_features(encoder, one, images, f"block{block}/block") for block in blocks]

    return jax.lax.map(of_copy, variables)


logistic_accuracy = jax.jit(logistic_probe_accuracy, static_argnums=4)


@functools.partial(jax.jit, static_argnums=3)
def neighbours(train, train_labels, test, num_classes: int) -> jax.Array:
    """The classes that the nearest training pictures vote for."""
    return knn_predict(train, train_labels, test, num_classes, k=NUM_NEIGHBOURS)


def finetune_all(
    config: Config,
    run: Run,
    pictures: Pictures,
    student: ViTConfig,
    students: dict[str, Student],
) -> dict[str, np.ndarray]:
    """Every copy of every arm, and fresh networks, fine-tuned in one call."""
    classifier = tinymim.ClassifierConfig(
        tinymim.finetuning_backbone(student, drop_path_rate=config.finetuning.drop_path),
        pictures.num_classes,
    )
    keys = jax.random.split(jax.random.key(config.seed + 2), config.repeats)
    fresh = fresh_students(config, student)
    everyone = {"scratch": Student(student, fresh, {})} | students
    encoders = [s.copy(i) for s in everyone.values() for i in range(config.repeats)]
    # copy i of every arm sees the same batches
    keys = keys[np.tile(np.arange(config.repeats), len(everyone))]
    with run.progress(f"{pictures.name}-finetuning", len(encoders)) as task:
        variables = training.start_classifiers(classifier, encoders, keys)
        history = training.finetune(config, pictures, classifier, variables, keys)
        task.advance(len(encoders))
    accuracy = history["accuracy"].reshape(len(everyone), config.repeats, -1)
    return dict(zip(everyone, accuracy, strict=True))


def measure_ablations(config: Config, run: Run) -> list[dict[str, Any]]:
    """Each chosen ablation on the first picture set: its losses and probes."""
    name = config.datasets[0]
    pictures = load(config, name, run.data_dir)
    _, teacher = train_teacher(config, run, name, pictures)
    patch_size = picture_set(config, name).patch_size
    rows = []
    for arm, changed in ablation_arms(config):

        def compute(arm: Arm = arm, changed: Config = changed):
            student = training.student_of(changed, pictures, patch_size)
            one = train_arm(
                changed, run, f"{name}-{arm.label}-students", pictures, student, teacher, arm.name
            )
            return ablation_row(arm.claim, arm.name, arm.paper, pictures, one)

        rows.append(run.kept(f"{name}-{arm.label}", compute))
    if "C8" in config.ablations:
        rows += measure_chain(config, run, pictures, teacher, patch_size)
    return rows


def ablation_row(
    claim: str, point: str, paper: str, pictures: Pictures, one: Student
) -> dict[str, Any]:
    """What is reported of a point: loss at the start and at the end, probes."""
    loss = one.losses["loss"]
    return {
        "claim": claim,
        "name": point,
        "paper": paper,
        "first_loss": float(loss[:, 0].mean()),
        "last_loss": float(loss[:, -10:].mean()),
        "probe": probe(pictures, one, (one.encoder.depth - 1, one.encoder.depth)),
    }


def measure_chain(
    config: Config, run: Run, pictures: Pictures, teacher: Student, patch_size: int
) -> list[dict[str, Any]]:
    """C8: teacher -> middle -> student, the middle's last block keeping its heads as a teacher."""
    base = overridden(
        config,
        {
            "repeats": 1,
            "pretraining.batch_size": config.ablation_batch_size,
            "pretraining.distill_steps": config.ablation_steps,
        },
    )
    name = config.datasets[0]
    options = {"drop_path_rate": base.drop_path, "drop_path_schedule": "all_but_last"}
    middle = training.vit_of(pictures, patch_size, base.middle, **options)
    first = train_arm(base, run, f"{name}-c8-middle", pictures, middle, teacher, "middle")
    last_block = overridden(base, {"distillation.target_block": middle.depth})
    student = training.student_of(base, pictures, patch_size)
    second = train_arm(last_block, run, f"{name}-c8-student", pictures, student, first, "student")
    heads = [e.heads[-1] for e in (teacher.encoder, first.encoder, second.encoder)]
    points = {"middle from teacher": first, "student from middle": second}
    return [
        run.kept(
            f"{name}-c8-{one.encoder.width}",
            lambda point=point, one=one: (
                ablation_row("C8", point, "", pictures, one) | {"heads": heads}
            ),
        )
        for point, one in points.items()
    ]
