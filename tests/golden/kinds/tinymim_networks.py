"""Golden kinds of TinyMIM: masked autoencoders, classifiers, position tables, layouts."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.position import interpolate_positions, sincos_table
from lab.nn.transformer import TransformerConfig
from lab.nn.vit import ViTConfig, patchify, unpatchify
from lab.papers.tinymim import convert, losses, models, optimizers, steps
from lab.papers.tinymim.masking import random_masking
from lab.train.optimizers import by_path
from lab.train.state import state_of
from tests.golden.documents import group, open_document
from tests.golden.kinds.tinymim import (
    channels_last,
    compiled,
    decay_groups,
    load,
    official_params,
    pretraining_tx,
    schedule_of,
    train,
    transformer_options,
    vit_of,
)


def mae_of(config: dict) -> models.MAEConfig:
    decoder = {
        "width": config["decoder_width"],
        "depth": config["decoder_depth"],
        "heads": config["decoder_heads"],
        "mlp_ratio": config["mlp_ratio"],
    }
    return models.MAEConfig(
        vit_of(config, config),
        TransformerConfig(**transformer_options(decoder), norm_epsilon=config["layernorm_eps"]),
    )


def mae(entry):
    arrays, config, model = entry.arrays, entry.config, mae_of(entry.config)
    images, patch = channels_last(arrays["input/image"]), config["patch_size"]

    def loss(params, constants, images, noise):
        masking = random_masking(noise, config["mask_ratio"])
        variables = {"params": params, "constants": constants}
        out = models.MAE(model).apply(variables, images, masking)
        by_target = {
            f"output/loss_{name}_pixels": losses.reconstruction_loss(
                out["pixels"],
                losses.pixel_targets(
                    images, patch, normalise=normalise, epsilon=config["pixel_norm_eps"]
                ),
                masking.removed,
            ).mean()
            for name, normalise in (("norm", True), ("raw", False))
        }
        return by_target["output/loss_norm_pixels"], (by_target, out, masking)

    variables = load(group(entry.document, "param/"), model)
    (_, (by_target, out, masking)), grads = compiled(jax.value_and_grad(loss, has_aux=True))(
        variables["params"], variables["constants"], images, jnp.asarray(arrays["input/noise"])
    )
    assert masking.kept.shape[1] == config["num_keep"]
    return {
        **by_target,
        "output/latent": out["latent"],
        "output/pred": out["pixels"],
        "output/mask": masking.removed,
        "output/ids_restore": masking.restore,
        "output/patchify": patchify(images, patch),
        "output/unpatchify_of_pred": jnp.moveaxis(unpatchify(out["pixels"], patch), -1, 1),
        **official_params(grads, model, "grad/"),
    }


def mae_train(entry):
    arrays, config, model = entry.arrays, entry.config, mae_of(entry.config)
    base = open_document(entry.other_file("base"))
    tx = pretraining_tx(config)
    variables = jax.tree.map(jnp.asarray, load(group(base, "param/"), model))
    state = state_of(variables, tx, jax.random.key(0))
    batches = {
        "images": channels_last(arrays["input/images"]),
        "noise": jnp.asarray(arrays["input/noise"]),
    }
    step = steps.make_step(steps.mae_loss_fn(model, config["mask_ratio"]), tx)
    final, metrics, rates = train(step, state, batches, config)
    return {
        "output/lrs": rates,
        "output/losses": metrics["loss"],
        **official_params(final.params, model, "output/param/"),
        **decay_groups(entry, state.params, model),
    }


def classifier_of(config: dict, *, heads=None, pooling="global") -> models.ClassifierConfig:
    sizes = config | {"heads": heads or config["heads"]}
    backbone = vit_of(config, sizes, position="learned", final_norm=pooling == "cls")
    return models.ClassifierConfig(backbone, config["num_classes"], pooling)


def finetune_forward(entry):
    arrays, config = entry.arrays, entry.config
    images = channels_last(arrays["input/image"])
    state_dict = dict(group(entry.document, "param/"))

    def classify(model, state_dict):
        apply = compiled(lambda v, x: models.Classifier(model).apply(v, x))
        return apply(load(state_dict, model), images)

    pooled = classify(classifier_of(config), state_dict)
    normed = {name.replace("fc_norm", "norm"): x for name, x in state_dict.items()}
    token = classify(classifier_of(config, pooling="cls"), normed)
    other = classify(classifier_of(config, heads=config["alt_heads"]), state_dict)
    logits, labels = pooled["logits"], jnp.asarray(arrays["input/label"])

    def cross_entropy(smoothing):
        targets = losses.smoothed_targets(labels, config["num_classes"], smoothing)
        return losses.soft_cross_entropy(logits, targets).mean()

    soft = losses.soft_cross_entropy(logits, jnp.asarray(arrays["input/soft_target"]))
    return {
        "output/features_global_pool": pooled["features"],
        "output/logits_global_pool": logits,
        "output/features_cls": token["features"],
        "output/logits_cls": token["logits"],
        "output/logits_alt_heads": other["logits"],
        "output/soft_target_ce": soft.mean(),
        "output/ce": cross_entropy(0.0),
        "output/label_smoothing_ce_0.1": cross_entropy(config["label_smoothing"]),
    }


def finetune_steps(entry):
    arrays, config = entry.arrays, entry.config
    model = classifier_of(config, pooling={"global_pool": "global"}.get(config["pooling"], "cls"))
    b1, b2 = config["betas"]
    tx = optimizers.finetuning_adamw(
        schedule_of(config),
        model.backbone,
        layer_decay_rate=config["layer_decay"],
        weight_decay=config["weight_decay"],
        b1=b1,
        b2=b2,
        eps=config["eps"],
        clip_norm=config["clip_grad"],
    )
    variables = jax.tree.map(jnp.asarray, load(group(entry.document, "param/"), model))
    state = state_of(variables, tx, jax.random.key(0))
    batches = {
        "images": channels_last(arrays["input/images"]),
        "targets": jnp.asarray(arrays["input/targets"]),
    }
    step = steps.make_step(steps.finetune_loss_fn(model), tx)
    final, metrics, rates = train(step, state, batches, config)
    return {
        "output/lrs": rates,
        "output/losses": metrics["loss"],
        **official_params(final.params, model, "output/param/"),
    }


def layer_decay_groups(entry):
    names, config = entry.arrays["names"].tolist(), entry.config
    assert set(config["no_decay_names"]) <= {"pos_embed", "cls_token"}
    depth, decay = config["depth"], config["layer_decay"]
    backbone = ViTConfig(
        width=8, depth=depth, num_heads=2, position="learned", final_norm=False, scan=True
    )
    model = models.ClassifierConfig(backbone, num_classes=3)
    params = models.variable_shapes(model)["params"]

    def by_name(value_of):
        filled = by_path(lambda path, x: np.broadcast_to(value_of(path, x), x.shape), params)
        official = official_params(filled, model)
        assert official.keys() == set(names)
        return np.array([official[name].ravel()[0] for name in names])

    scales = optimizers.layer_scales(depth, decay)
    scale = by_name(lambda path, _: scales(path))
    decayed = by_name(optimizers.is_decayed_in_finetuning)
    return {
        "names": np.array(names),
        "lr_scale": scale,
        "weight_decay": np.where(decayed, config["weight_decay"], 0.0),
        "layer_id": np.rint(depth + 1 - np.log(scale) / math.log(decay)).astype(int),
    }


def deit_distill_loss(entry):
    logits, logits_dist, teacher_logits = (
        jnp.asarray(entry.arrays[f"input/{name}"])
        for name in ("logits", "logits_dist", "teacher_logits")
    )
    labels = jnp.asarray(entry.arrays["input/label"])
    targets = losses.smoothed_targets(labels, logits.shape[1], 0.0)
    base = losses.soft_cross_entropy(logits, targets)
    computed = {"output/base": base.mean()}
    for name, is_hard in (("soft", False), ("hard", True)):
        config = steps.TeacherLabels(entry.config["alpha"], is_hard, entry.config["tau"])
        terms, weights = steps.deit_terms(config, base, logits_dist, teacher_logits)
        computed[f"output/{name}"] = terms["distillation"].mean()
        computed[f"output/loss_{name}"] = sum(w * terms[k].mean() for k, w in weights.items())
    return computed


def pos_embed_sincos(entry):
    config = entry.config
    table = sincos_table(config["width"], config["grid"], int(config["cls_token"]))
    return dict.fromkeys(entry.expected, table[0])


def pos_embed_interpolate(entry):
    config, table = entry.config, entry.arrays["input"]
    assert config["bicubic_a"] == -0.75
    assert table.shape[1] == config["old_grid"] ** 2 + config["extra_tokens"]
    return {"output": interpolate_positions(table, config["new_grid"], config["extra_tokens"])}


def model_of_layout(config: dict) -> models.ModelConfig:
    """The model whose checkpoint a `checkpoint_layout` entry lists."""
    encoder = ViTConfig(
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        width=config["width"],
        depth=config["depth"],
        num_heads=config["heads"],
        scan=True,
    )
    match config["arch"]:
        case "tinymim_pretrain" | "mae_encoder":
            return encoder
        case "mae_full":
            decoder = TransformerConfig(
                width=config["decoder_width"],
                depth=config["decoder_depth"],
                num_heads=config["decoder_heads"],
                scan=True,
            )
            return models.MAEConfig(encoder, decoder)
        case "finetune":
            pooling = "global" if config["global_pool"] else "cls"
            backbone = dataclasses.replace(encoder, position="learned", final_norm=pooling == "cls")
            return models.ClassifierConfig(backbone, config["num_classes"], pooling)
    raise ValueError(f"unknown architecture {config['arch']!r}")


def layout_of(variables, model: models.ModelConfig) -> dict[str, list[int]]:
    """Official name -> shape, from the shapes of variables."""
    # zero strides: full size without memory
    empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), variables)
    return {name: list(x.shape) for name, x in convert.to_official(empty, model).items()}


def first_blocks_and_rest(layout: dict[str, list[int]]) -> dict[str, list[int]]:
    """The layout without blocks 1, 2, ..., whose shapes must be those of block 0."""
    first = {re.sub(r"blocks\.\d+", "blocks.0", name): shape for name, shape in layout.items()}
    for name, shape in layout.items():
        assert first[re.sub(r"blocks\.\d+", "blocks.0", name)] == shape
    return first


def checkpoint_layout(entry):
    model = model_of_layout(entry.config)
    variables = models.variable_shapes(model)
    layout = layout_of(variables, model)
    trained = layout_of({"params": variables["params"]}, model)
    blocks = {name.split(".")[1] for name in layout if name.startswith("blocks.")}
    decoder_blocks = {name.split(".")[1] for name in layout if name.startswith("decoder_blocks.")}
    counted = {
        "parameters_total": sum(map(math.prod, layout.values())),
        "parameters_trainable": sum(map(math.prod, trained.values())),
        "blocks": len(blocks),
        "decoder_blocks": len(decoder_blocks),
        "keys_block0_and_rest": first_blocks_and_rest(layout),
    }
    return {"": counted}


KINDS = {
    "mae": mae,
    "mae_train": mae_train,
    "finetune_forward": finetune_forward,
    "finetune_steps": finetune_steps,
    "layer_decay_groups": layer_decay_groups,
    "deit_distill_loss": deit_distill_loss,
    "pos_embed_sincos": pos_embed_sincos,
    "pos_embed_interpolate": pos_embed_interpolate,
}
