"""The pictures: what the teacher fills in, how tokens look at each other, what students gain."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tinymim import Config
from experiments.tinymim.arms import NAMES
from experiments.tinymim.study import Findings, Student, encoder_copy
from experiments.tinymim.training import COMPILED_QUICKLY
from lab.nn.vit import ViT, ViTConfig
from lab.papers import tinymim
from lab.papers.tinymim.distill import target_block
from lab.papers.tinymim.losses import relation_kl
from lab.papers.tinymim.masking import masking_noise
from lab.papers.tinymim.pictures import attention_rollout, reconstructed, token_cka
from lab.papers.tinymim.relations import relation_losses
from lab.report import Run, figures

SHOWN, COMPARED = 6, 64
compiled_once = functools.partial(jax.jit, compiler_options=COMPILED_QUICKLY)


def all_pictures(config: Config, run: Run, found: dict[str, Findings], ablations: list) -> list:
    """Every figure of the run."""
    made = []
    for name, one in found.items():
        made.append(score_picture(run, name, one))
        made.append(reconstruction_picture(config, run, name, one))
        if "relation" in one.students:
            made.append(relation_picture(config, run, name, one))
            made.append(rollout_picture(run, name, one))
            made.append(likeness_picture(config, run, name, one))
        made.append(loss_picture(run, name, one))
    blocks = [r for r in ablations if r["claim"] in ("C7", "default")]
    if len(blocks) > 1:
        made.append(ablation_picture(run, ablations))
    return made


def score_picture(run: Run, name: str, found: Findings) -> Any:
    """Fine-tuned accuracy and probe of every arm."""
    arms = [arm for arm in NAMES if arm in found.finetuned]
    tuned = {arm: 100 * found.finetuned[arm][:, -1] for arm in arms}
    block = next(b for b in reversed(found.probes["random"]) if b.startswith("block"))
    probed = {
        arm: 100 * np.array(found.probes["random" if arm == "scratch" else arm][block])
        for arm in arms
    }
    fig, axes = figures.new(2, 1, width=5.5, height=5.0, sharex=True)
    for axis, values, title in (
        (axes[0], tuned, "Fine-tuned"),
        (axes[1], probed, "Frozen, logistic probe"),
    ):
        heights = [x.mean() for x in values.values()]
        spread = [x.std(ddof=1) if len(x) > 1 else 0.0 for x in values.values()]
        figures.bars(axis, [NAMES[arm] for arm in arms], heights, spread)
        with figures.style():
            axis.axhline(
                100 / found.pictures.num_classes, color=figures.GREY, linestyle="--", linewidth=1.0
            )
        figures.label(axis, title=title, y="accuracy, %")
    text = ", ".join(f"{NAMES[a]} {tuned[a].mean():.1f} and {probed[a].mean():.1f}" for a in arms)
    return run.figure(
        f"accuracy-{name}",
        fig,
        caption=f"{name}: test accuracy of students by the way they were pre-trained, mean and "
        "standard deviation over copies; dashed: chance.",
        alt=f"Accuracy in percent, fine-tuned and probed: {text}.",
    )


def show(axis: Any, image: np.ndarray, **options: Any) -> None:
    """A picture without ticks."""
    with figures.style():
        axis.imshow(image, interpolation="nearest", **options)
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)


def reconstruction_picture(config: Config, run: Run, name: str, found: Findings) -> Any:
    """Pictures, what the teacher's MAE sees of them, and what it draws."""
    model, images = found.teacher_model, shown_images(found)
    noise = masking_noise(jax.random.split(jax.random.key(0), SHOWN), model.encoder.num_patches)
    masking = tinymim.random_masking(noise, config.pretraining.mask_ratio)
    draw = compiled_once(lambda v: tinymim.MAE(model).apply(v, images, masking)["pixels"])
    seen, drawn = reconstructed(
        images, draw(found.teacher.copy(0)), masking, model.encoder.patch_size
    )
    fig, axes = figures.new(3, SHOWN, width=6.0, height=3.2)
    for column in range(SHOWN):
        for row, pictures in enumerate((images, seen, drawn)):
            show(axes[row, column], found.pictures.displayed(pictures[column]))
    for row, words in enumerate(("picture", "seen", "drawn")):
        axes[row, 0].set_ylabel(words, fontsize=9)
    share = config.pretraining.mask_ratio
    return run.figure(
        f"reconstruction-{name}",
        fig,
        caption=f"{name}: test pictures, the {1 - share:.0%} of the patches that the teacher's "
        "MAE sees, and what it fills in (each patch with its true mean and deviation, which it "
        "does not predict).",
        alt="Three rows of pictures: whole, masked, and completed by the masked autoencoder.",
    )


def shown_images(found: Findings, count: int = SHOWN) -> jax.Array:
    """The first test pictures, normalised."""
    return jnp.asarray(found.pictures.normalised(jnp.asarray(found.pictures.test_images[:count])))


def relation_picture(config: Config, run: Run, name: str, found: Findings) -> Any:
    """Relations of the teacher's target block and of students' last blocks, a head each."""
    teacher, student = found.teacher, found.students["relation"]
    block = target_block(config.distillation, teacher.encoder)
    heads = student.encoder.heads[-1]
    image = shown_images(found)[:1]
    last = student.encoder.depth
    maps = {
        f"teacher, block {block}": relations(
            teacher.encoder, encoder_copy(teacher), image, block, heads
        ),
        "relation student": relations(student.encoder, student.copy(0), image, last, heads),
    }
    if "mae" in found.students:
        other = found.students["mae"]
        maps["MAE student"] = relations(other.encoder, other.copy(0), image, last, heads)
    columns = [(kind, head) for kind in ("qk", "vv") for head in (0, heads // 2)]
    fig, axes = figures.new(len(maps), 5, width=6.5, height=1.5 * len(maps), squeeze=False)
    for axis, (kind, head) in zip(axes[0, 1:], columns, strict=True):
        with figures.style():
            axis.set_title(f"{kind.upper()}, head {head + 1}", loc="center", fontsize=9)
    for row, (who, found_maps) in zip(axes, maps.items(), strict=True):
        show(row[0], found.pictures.displayed(np.asarray(image[0])))
        row[0].set_ylabel(who, fontsize=8)
        for axis, (kind, head) in zip(row[1:], columns, strict=True):
            values = np.asarray(found_maps[kind][0, head])
            top = np.quantile(np.asarray(maps[next(iter(maps))][kind][0, head]), 0.995)
            show(axis, values, cmap="magma", vmin=0, vmax=max(float(top), 1e-6))
    return run.figure(
        f"relations-{name}",
        fig,
        caption=f"{name}: how every token (row) relates to every other (column): softmax of QK "
        "and VV products, two heads, one test picture; one colour scale a column, the teacher's.",
        alt="Maps of token relations: the relation student's are like the teacher's.",
    )


def relations(
    encoder: ViTConfig, variables: Any, images: jax.Array, block: int, heads: int
) -> dict[str, jax.Array]:
    """QK and VV relations of a block, softmaxed: float [B, M, T, T]."""
    names = tuple(f"block{block}/{part}" for part in "qkv")
    out = compiled_once(lambda v: ViT(encoder).apply(v, images, names))(variables)
    tokens = {name[-1]: x for name, x in out.items()}
    logits = tinymim.token_relations(tokens, heads)
    return {kind: jax.nn.softmax(x, axis=-1) for kind, x in logits.items()}


def rollout_picture(run: Run, name: str, found: Findings) -> Any:
    """Where the class token's output comes from, in teacher and students."""
    images = shown_images(found)
    whole = Student(found.teacher.encoder, None, {})
    maps = {"teacher": rollout(whole.encoder, encoder_copy(found.teacher), images)}
    for arm in ("relation", "mae"):
        if arm in found.students:
            one = found.students[arm]
            maps[f"{NAMES[arm].split(' ')[0]} student"] = rollout(one.encoder, one.copy(0), images)
    fig, axes = figures.new(1 + len(maps), SHOWN, width=6.0, height=1.05 * (1 + len(maps)))
    for column in range(SHOWN):
        show(axes[0, column], found.pictures.displayed(np.asarray(images[column])))
        for row, values in enumerate(maps.values(), start=1):
            show(axes[row, column], np.asarray(values[column]), cmap="magma")
    for axis, words in zip(axes[:, 0], ("picture", *maps), strict=True):
        axis.set_ylabel(words, fontsize=8)
    return run.figure(
        f"rollout-{name}",
        fig,
        caption=f"{name}: attention rollout, the patches that the class token's output comes from "
        "through all blocks (heads averaged; each map on its own scale).",
        alt="Rows of attention maps over the same pictures: teacher and students.",
    )


def rollout(encoder: ViTConfig, variables: Any, images: jax.Array) -> jax.Array:
    """Attention rollout over all blocks: float [B, G, G]."""
    names = tuple(f"block{i}/{part}" for i in range(1, encoder.depth + 1) for part in "qk")

    @compiled_once
    def maps(variables):
        out = ViT(encoder).apply(variables, images, names)
        attentions = []
        for i, heads in enumerate(encoder.heads, start=1):
            tokens = {part: out[f"block{i}/{part}"] for part in "qk"}
            attentions.append(
                jax.nn.softmax(tinymim.token_relations(tokens, heads, ("qk",))["qk"], axis=-1)
            )
        return attention_rollout(attentions)

    return maps(variables)


def likeness_picture(config: Config, run: Run, name: str, found: Findings) -> Any:
    """How like students' layers are to the teacher's, and their relations, head by head."""
    images = shown_images(found, COMPARED)
    block = target_block(config.distillation, found.teacher.encoder)
    teacher = layers(found.teacher.encoder, encoder_copy(found.teacher), images, block)
    arms = [arm for arm in ("relation", "mae") if arm in found.students]
    fig, axes = figures.new(1, len(arms) + 1, width=3.0 * (len(arms) + 1), height=3.0)
    distances, text = {}, []
    for axis, arm in zip(axes, arms, strict=False):
        one = found.students[arm]
        student = layers(one.encoder, one.copy(0), images, one.encoder.depth)
        blocks = range(1, one.encoder.depth + 1), range(1, found.teacher.encoder.depth + 1)
        cka = [
            [float(token_cka(student[f"block{i}"], teacher[f"block{j}"])) for j in blocks[1]]
            for i in blocks[0]
        ]
        figures.heat_map(axis, cka, rows=blocks[0], columns=blocks[1], number_format="{:.2f}")
        figures.label(axis, title=f"CKA, {NAMES[arm]}", x="teacher's block", y="student's block")
        heads = found.students["relation"].encoder.heads[-1]
        kl = relation_losses(teacher, student, heads, ("qk", "vv"), relation_kl)
        distances[NAMES[arm]] = sum(kl.values()).mean(axis=0).tolist()
        text.append(f"{NAMES[arm]} {np.mean(distances[NAMES[arm]]):.2f}")
    figures.bars(axes[-1], [str(i + 1) for i in range(heads)], distances)
    figures.label(axes[-1], title="KL of QK + VV", x="head", y="nats")
    axes[-1].margins(y=0.35)  # room for the legend
    return run.figure(
        f"likeness-{name}",
        fig,
        caption=f"{name}: likeness of tokens (linear CKA) between the blocks of students and "
        f"teacher, and how far the relations of a student's last block are from those of the "
        f"teacher's block {block}, head by head; {COMPARED} test pictures.",
        alt=f"Matrices of CKA, bars of the KL a head; mean KL: {', '.join(text)}.",
    )


def layers(
    encoder: ViTConfig, variables: Any, images: jax.Array, block: int
) -> dict[str, jax.Array]:
    """The output of every block ("block<i>"), and "q", "k", "v" of one."""
    names = [f"block{i}/block" for i in range(1, encoder.depth + 1)]
    names += [f"block{block}/{part}" for part in "qkv"]
    out = compiled_once(lambda v: ViT(encoder).apply(v, images, tuple(names)))(variables)
    found = {f"block{i}": out[f"block{i}/block"] for i in range(1, encoder.depth + 1)}
    return found | {part: out[f"block{block}/{part}"] for part in "qkv"}


def loss_picture(run: Run, name: str, found: Findings) -> Any:
    """Losses over training, each as a share of its start."""
    curves = {"teacher (MAE)": found.teacher.losses["loss"]}
    curves |= {NAMES[arm]: one.losses["loss"] for arm, one in found.students.items()}
    fig, axes = figures.new(width=5.5, height=3.2)
    for i, (label, loss) in enumerate(curves.items()):
        mean = smoothed(loss.mean(axis=0) / loss[:, :3].mean())
        with figures.style():
            color = figures.PALETTE[i % len(figures.PALETTE)]
            axes.plot(np.linspace(0, 1, len(mean)), mean, color=color, label=label)
            axes.set_yscale("log")
            axes.legend(ncols=2, fontsize=8)
    figures.label(axes, title="Pre-training", x="share of the steps", y="loss / its start")
    text = ", ".join(f"{k} to {x[:, -10:].mean() / x[:, :3].mean():.2f}" for k, x in curves.items())
    return run.figure(
        f"losses-{name}",
        fig,
        caption=f"{name}: each loss over its training, as a share of its first steps; losses of "
        "different kinds cannot be compared with each other.",
        alt=f"Falling curves; shares of the start at the end: {text}.",
    )


def smoothed(values: np.ndarray, share: float = 0.03) -> np.ndarray:
    """A running mean over a share of the curve."""
    width = max(1, int(share * len(values)))
    return np.convolve(values, np.ones(width) / width, mode="valid")


def ablation_picture(run: Run, rows: list[dict[str, Any]]) -> Any:
    """The probe of every ablation, beside the default's."""
    # C10 after C9
    rows = sorted(rows, key=lambda r: (r["claim"] != "default", len(r["claim"]), r["claim"]))
    labels = [f"{row['claim']} {row['name']}" for row in rows]
    labels[0] = "default"
    fig, axis = figures.new(width=5.5, height=0.24 * len(rows) + 1.0)
    blocks = sorted(key for key in rows[0]["probe"] if key.startswith("block"))
    with figures.style():
        for block, color, marker in zip(blocks, figures.PALETTE, figures.MARKERS, strict=False):
            values = [100 * np.mean(row["probe"].get(block, np.nan)) for row in rows]
            places = range(len(rows))
            axis.plot(values, places, marker, color=color, label=f"student's {block}")
        axis.set_yticks(range(len(rows)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.legend(fontsize=8)
    figures.label(axis, title="Ablations, frozen probe", x="accuracy, %")
    text = ", ".join(f"{n} {100 * np.mean(r['probe'].get(blocks[-1], np.nan)):.1f}"
                     for n, r in zip(labels, rows, strict=True))  # fmt: skip
    return run.figure(
        "ablations",
        fig,
        caption="Logistic probe of single, short runs; differences below three points are noise.",
        alt=f"Accuracy in percent: {text}.",
    )
