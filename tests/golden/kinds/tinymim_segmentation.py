"""Golden kinds of TinyMIM: segmentation, sliding windows, the linear probe, measures."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from lab.data.segmentation import reduced_labels
from lab.metrics.segmentation import add_areas, segmentation_areas, segmentation_scores
from lab.nn.position import relative_position_index
from lab.nn.upernet import resize_bilinear
from lab.nn.vit import ViTConfig
from lab.papers.tinymim import metrics, optimizers, probes
from lab.papers.tinymim.convert_segmentation import from_mmseg, to_mmseg, variable_shapes
from lab.papers.tinymim.segmentation import (
    SegmentationBackbone,
    Segmenter,
    SegmenterConfig,
    segmentation_terms,
)
from lab.papers.tinymim.sliding import slide_logits
from lab.train.optimizers import by_path
from lab.train.state import state_of
from lab.train.steps import make_train_step
from tests.golden.documents import group, open_document
from tests.golden.kinds import tinymim_networks
from tests.golden.kinds.tinymim import channels_last, compiled, transformer_options, vit_of


def channels_first(maps) -> np.ndarray:
    return np.moveaxis(np.asarray(maps), -1, 1)


def backbone_of(config: dict, **options) -> ViTConfig:
    return vit_of(
        config,
        config,
        position="learned",
        final_norm=False,
        relative_position_bias=config["relative_position_bias"],
        layer_scale=1.0 if config["layer_scale"] else None,
        drop_path_rate=config["drop_path_rate"],
        **options,
    )


def segmenter_of(config: dict) -> SegmenterConfig:
    assert (config["bn_eps"], config["bn_momentum"]) == (1e-5, 0.1)
    assert (config["align_corners"], config["ignore_index"]) == (False, 255)
    return SegmenterConfig(
        backbone_of(config),
        num_classes=config["num_classes"],
        width=config["head_channels"],
        pool_scales=tuple(config["pool_scales"]),
        auxiliary_width=config["aux_channels"],
        auxiliary_level=config["aux_in_index"],
        dropout_rate=config["dropout"],
        feature_blocks=tuple(i + 1 for i in config["out_indices"]),
    )


def losses_of(out, labels, weight):
    """The golden file's scalars, by the name under output/<mode>/."""
    terms, over_valid = (
        segmentation_terms(out, labels, valid_only=valid_only) for valid_only in (False, True)
    )
    return {
        "loss_decode": terms["decode"],
        "loss_aux_weighted": weight * terms["auxiliary"],
        "loss_total": terms["decode"] + weight * terms["auxiliary"],
        "loss_decode_mean_over_valid": over_valid["decode"],
        "acc_decode": terms["accuracy"],
    }


def segmentation(entry):
    arrays, config, model = entry.arrays, entry.config, segmenter_of(entry.config)
    train = entry.mode == "train"
    variables, _ = from_mmseg(group(entry.document, "param/"), model)
    images, labels = channels_last(arrays["input/image"]), arrays["input/label"]
    labels = jnp.asarray(labels.reshape(len(labels), *images.shape[1:3]))

    def loss(params, statistics, images, labels):
        out, state = Segmenter(model).apply(
            {"params": params, "batch_stats": statistics}, images, train=train, mutable=True
        )
        scalars = losses_of(out, labels, config["aux_loss_weight"])
        return scalars["loss_total"], (out, scalars, state["batch_stats"])

    call = jax.value_and_grad(loss, has_aux=True) if train else loss
    given = (variables["params"], variables["batch_stats"], images, labels)
    if train:
        (_, (out, scalars, statistics)), grads = compiled(call)(*given)
    else:
        _, (out, scalars, statistics) = compiled(call)(*given)
    computed = {f"feature{i}": channels_first(x) for i, x in enumerate(out["features"])}
    computed |= {
        "logits": channels_first(out["logits"]),
        "aux_logits": channels_first(out["auxiliary_logits"]),
        **scalars,
        "acc_decode": scalars["acc_decode"][None],
    }
    index = relative_position_index(model.backbone.grid, model.backbone.num_special)
    if not train:
        resized = resize_bilinear(out["logits"], labels.shape[1:])
        computed["logits_resized_argmax"] = resized.argmax(axis=-1)
        computed = {f"output/eval/{name}": x for name, x in computed.items()}
        return computed | {"output/relative_position_index": index}
    official = to_mmseg({"batch_stats": statistics}, model)
    computed |= {name: x for name, x in official.items() if ".running_" in name}
    computed = {f"output/train/{name}": x for name, x in computed.items()}
    gradients = to_mmseg({"params": grads}, model)
    wanted = {f"grad/{name}": x for name, x in gradients.items()}
    computed |= {key: x for key, x in wanted.items() if key in entry.expected}
    return computed | {"output/relative_position_index": index}


def segmentation_star_backbone(entry):
    config = entry.config
    assert config["extra_tokens"] == 2
    assert (config["fc_layernorm_eps"], config["bn_eps"]) == (1e-5, 1e-5)
    vit = backbone_of(config, distilled=True, expanded_width=config["fc_width"])
    model = SegmenterConfig(vit, feature_blocks=tuple(i + 1 for i in config["out_indices"]))
    variables, _ = from_mmseg(group(entry.document, "param/"), model, backbone_only=True)
    images = channels_last(entry.arrays["input/image"])
    apply = compiled(lambda v, x: SegmentationBackbone(model).apply(v, x, train=False))
    maps = apply(variables, images)
    computed = {f"output/feature{i}": channels_first(x) for i, x in enumerate(maps)}
    index = relative_position_index(vit.grid, vit.num_special)
    return computed | {"output/relative_position_index": index}


def segmentation_layer_decay_groups(entry):
    names, config = entry.arrays["names"].tolist(), entry.config
    assert config["no_decay_names"] == []
    base = open_document(entry.other_file("base"))
    given = group(base, "param/")
    model = smallest_segmenter(given, config["depth"])
    params = variable_shapes(model)["params"]

    def by_name(value_of):
        filled = by_path(lambda path, x: np.broadcast_to(value_of(path, x), x.shape), params)
        official = to_mmseg({"params": filled}, model)
        return np.array([official[name].ravel()[0] for name in names])

    depth, decay = config["depth"], config["layer_decay"]
    scales = optimizers.layer_scales(depth, decay)
    scale = by_name(lambda path, _: scales(path))
    decayed = by_name(optimizers.is_decayed)
    return {
        "names": np.array(names),
        "lr_scale": scale,
        "weight_decay": np.where(decayed, config["weight_decay"], 0.0),
        "layer_id": np.rint(depth + 1 - np.log(scale) / math.log(decay)).astype(int),
    }


def smallest_segmenter(state_dict, depth: int) -> SegmenterConfig:
    """Any network with the names of a state dict; groups do not depend on the sizes."""
    pools = sum(name.endswith(".1.conv.weight") for name in state_dict)
    sizes = transformer_options({"width": 8, "depth": depth, "heads": 2, "mlp_ratio": 4})
    vit = ViTConfig(
        **sizes,
        image_size=32,
        position="learned",
        final_norm=False,
        relative_position_bias=True,
        layer_scale=1.0,
    )
    blocks = tuple(range(depth - 3, depth + 1))
    return SegmenterConfig(
        vit, 3, 4, tuple(range(1, pools + 1)), auxiliary_width=4, feature_blocks=blocks
    )


def checkpoint_layout(entry):
    """Also of the segmentation backbones; the others are `tinymim_networks`'."""
    config = entry.config
    if not config["arch"].startswith("segmentation_"):
        return tinymim_networks.checkpoint_layout(entry)
    starred = config["arch"] == "segmentation_star_backbone"
    options = {"distilled": True, "expanded_width": config["fc_width"]} if starred else {}
    vit = backbone_of(
        {
            **config,
            "mlp_ratio": 4,
            "layernorm_eps": 1e-6,
            "relative_position_bias": True,
            "layer_scale": True,
            "drop_path_rate": 0.0,
        },
        **options,
    )
    model = SegmenterConfig(vit)
    variables = variable_shapes(model, backbone_only=True)
    # zero strides: full size without memory
    empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), variables)
    official = to_mmseg(empty, model, backbone_only=True)
    layout = {name: list(x.shape) for name, x in official.items()}
    uncounted = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
    counted = [shape for name, shape in layout.items() if not name.endswith(uncounted)]
    blocks = {name.split(".")[1] for name in layout if name.startswith("blocks.")}
    return {
        "": {
            "parameters_total": sum(map(math.prod, counted)),
            "blocks": len(blocks),
            "decoder_blocks": 0,
            "keys_block0_and_rest": tinymim_networks.first_blocks_and_rest(layout),
        }
    }


def slide_inference(entry):
    config = entry.config
    kernel = jnp.asarray(entry.arrays["config/kernel"]).transpose(2, 3, 1, 0)

    def network(windows):
        dimensions = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(
            windows, kernel, (1, 1), "SAME", dimension_numbers=dimensions
        )
        return out + out.mean(axis=(1, 2), keepdims=True)

    images = channels_last(entry.arrays["image"])
    averaged = slide_logits(network, images, config["crop"], config["stride"])
    shares = jax.nn.softmax(resize_bilinear(averaged, tuple(config["ori_shape"])))
    return {
        "averaged_logits": channels_first(averaged),
        "softmax_at_ori_shape": channels_first(shares),
        "argmax": shares.argmax(axis=-1),
    }


def linear_probe(entry):
    arrays, config = entry.arrays, entry.config
    assert config["bn_affine"] is False
    assert (config["bn_eps"], config["bn_momentum"]) == (1e-6, 0.1)
    given = {
        "params": {
            "head": {"kernel": arrays["param/1.weight"].T, "bias": arrays["param/1.bias"]},
        },
        "batch_stats": {
            "norm": {"mean": arrays["param/0.running_mean"], "var": arrays["param/0.running_var"]}
        },
    }
    num_classes = arrays["param/1.bias"].size
    settings = probes.LinearProbe(
        num_classes,
        momentum=config["momentum"],
        trust_coefficient=config["trust_coefficient"],
        weight_decay=config["weight_decay"],
    )
    tx = settings.lars(config["lr"])
    step = make_train_step(probes.linear_probe_loss_fn(num_classes), tx)
    batches = {name: jnp.asarray(arrays[f"input/{name}"]) for name in ("features", "labels")}
    assert len(batches["labels"]) == config["num_steps"]
    state = state_of(jax.tree.map(jnp.asarray, given), tx, jax.random.key(0))
    state, history = compiled(functools.partial(jax.lax.scan, step))(state, batches)
    variables = {"params": state.params, **state.model_state}
    head, norm = state.params["head"], state.model_state["batch_stats"]["norm"]
    tracked = "0.num_batches_tracked"
    return {
        "output/losses": history["loss"],
        "output/param/0.running_mean": norm["mean"],
        "output/param/0.running_var": norm["var"],
        f"output/param/{tracked}": arrays[f"param/{tracked}"] + config["num_steps"],
        "output/param/1.weight": head["kernel"].T,
        "output/param/1.bias": head["bias"],
        "output/eval_logits": probes.probe_logits(variables, batches["features"][0]),
    }


def segmentation_metrics(entry):
    arrays, config = entry.arrays, entry.config
    num_classes, ignored = config["num_classes"], config["ignore_index"]
    places = [name[len("input/label") :] for name in arrays if name.startswith("input/label")]
    areas = []
    for place in places:
        labels = arrays[f"input/label{place}"]
        labels = reduced_labels(labels) if config["reduce_zero_label"] else labels
        areas.append(segmentation_areas(arrays[f"input/pred{place}"], labels, num_classes, ignored))
    total = add_areas(*areas)
    scores = segmentation_scores(total)
    computed = {
        "intersect": total.intersect,
        "union": total.union,
        "area_pred": total.predicted,
        "area_label": total.labelled,
        "aAcc": scores["aacc"],
        "acc_per_class": scores["accuracy"],
        "iou_per_class": scores["iou"],
        "mIoU": scores["miou"],
        "mAcc": scores["macc"],
    }
    named = {f"output/{name}": np.asarray(x) for name, x in computed.items()}
    return {key: x for key, x in named.items() if key in entry.expected}


def topk_accuracy(entry):
    logits, labels = entry.arrays["input/logits"], entry.arrays["input/label"]
    return {
        f"output/acc{k}": 100 * metrics.topk_accuracy(logits, labels, k) for k in entry.config["k"]
    }


def corruption_error(entry):
    arrays = entry.arrays
    names = arrays["corruptions"].tolist()
    assert entry.config["normalisation"] == "alexnet"
    given = dict(zip(names, arrays["alexnet_error"].tolist(), strict=True))
    np.testing.assert_allclose([metrics.ALEXNET_ERRORS[n] for n in names], [*given.values()], 1e-6)
    errors = dict(zip(names, arrays["input/error_per_severity"], strict=True))
    computed = metrics.corruption_errors(errors, given)
    return {
        "output/mCE_percent": 100 * computed["mce"],
        "output/mean_error_percent": 100 * computed["mean_error"],
    }


def subset_accuracy(entry):
    logits, labels = entry.arrays["topk/input/logits"], entry.arrays["input/label"]
    chosen = entry.config["class_indices"]
    return {"output/acc1": 100 * metrics.subset_accuracy(logits, labels, chosen)}


KINDS = {
    "segmentation": segmentation,
    "segmentation_star_backbone": segmentation_star_backbone,
    "segmentation_layer_decay_groups": segmentation_layer_decay_groups,
    "checkpoint_layout": checkpoint_layout,
    "slide_inference": slide_inference,
    "linear_probe": linear_probe,
    "segmentation_metrics": segmentation_metrics,
    "topk_accuracy": topk_accuracy,
    "corruption_error": corruption_error,
    "subset_accuracy": subset_accuracy,
}
