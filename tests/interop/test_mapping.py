import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import InvalidInputError
from lab.interop import (
    Report,
    Rule,
    Transform,
    batch_norm,
    conv,
    conv_transpose,
    embedding,
    layer_norm,
    linear,
    load_checkpoint,
    match_variables,
    merge,
    save_safetensors,
    to_state_dict,
    to_variables,
)
from lab.interop.mapping import flatten
from tests.interop.archives import FIXTURES

LAYER_RULES = (
    *conv("conv", "conv"),
    *batch_norm("norm", "norm"),
    *conv_transpose("up", "up"),
    *linear("blocks.{i}", "blocks_{i}"),
    *layer_norm("final", "final"),
    *embedding("embed", "embed"),
)
COUNTS = ("*.num_batches_tracked",)


class Layers(nn.Module):
    """The flax counterpart of the torch module in make_fixtures.py."""

    @nn.compact
    def __call__(self, images, ids):
        hidden = nn.Conv(4, (3, 3), padding="VALID", use_bias=False, name="conv")(images)
        hidden = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="norm")(hidden)
        hidden = nn.relu(hidden)
        hidden = nn.ConvTranspose(3, (2, 2), (2, 2), padding="VALID", name="up")(hidden)
        hidden = hidden.mean((1, 2))
        for index in range(2):
            hidden = jnp.tanh(nn.Dense(3, name=f"blocks_{index}")(hidden))
        hidden = nn.LayerNorm(epsilon=1e-5, name="final")(hidden)
        return hidden + nn.Embed(5, 3, name="embed")(ids)


@pytest.fixture(scope="module")
def layer_inputs():
    with np.load(FIXTURES / "expected.npz") as arrays:
        images = np.moveaxis(arrays["layers/images"], 1, -1)
        return images, arrays["layers/ids"], arrays["layers/output"]


@pytest.fixture(scope="module")
def layer_shapes(layer_inputs):
    return jax.eval_shape(Layers().init, jax.random.key(0), *layer_inputs[:2])


def test_flax_with_mapped_weights_computes_what_torch_does(layer_inputs, layer_shapes):
    images, ids, output = layer_inputs
    checkpoint = load_checkpoint(FIXTURES / "training.pth")
    variables = to_variables(checkpoint, LAYER_RULES, ignore=COUNTS, template=layer_shapes)
    np.testing.assert_allclose(Layers().apply(variables, images, ids), output, atol=1e-5)


def test_export_gives_the_official_checkpoint_back(tmp_path, layer_shapes):
    checkpoint = load_checkpoint(FIXTURES / "training.pth")
    variables = to_variables(checkpoint, LAYER_RULES, ignore=COUNTS, template=layer_shapes)
    save_safetensors(tmp_path / "back.safetensors", to_state_dict(variables, LAYER_RULES))
    back = load_checkpoint(tmp_path / "back.safetensors")
    assert set(back) == set(checkpoint) - {"norm.num_batches_tracked"}
    for name, array in back.items():
        np.testing.assert_array_equal(array, checkpoint[name])


BLOCK_RULES = (
    Rule("cls_token", "cls_token"),
    *conv("patch_embed.proj", "patch_embed"),
    *linear("blocks.{i}.attn.qkv", "blocks_{i}/attn/qkv"),
    *layer_norm("blocks.{i}.{norm}", "blocks_{i}/{norm}"),
    *batch_norm("neck.{part}.bn", "neck/{part}/bn"),
)
SHAPES = {
    "cls_token": (1, 1, 4),
    "patch_embed.proj.weight": (4, 3, 2, 2),
    "patch_embed.proj.bias": (4,),
    **{
        f"blocks.{i}.{name}": shape
        for i in range(12)
        for name, shape in (
            ("attn.qkv.weight", (12, 4)),
            ("attn.qkv.bias", (12,)),
            ("norm1.weight", (4,)),
            ("norm1.bias", (4,)),
        )
    },
    **{f"neck.up.bn.{name}": (4,) for name in ("weight", "bias", "running_mean", "running_var")},
}


def random_state_dict(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("f4") for name, shape in SHAPES.items()}


def assert_same(left, right) -> None:
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name])


def test_names_layouts_and_collections():
    state_dict = random_state_dict()
    variables = to_variables(state_dict, BLOCK_RULES)
    params = variables["params"]
    np.testing.assert_array_equal(
        params["blocks_11"]["attn"]["qkv"]["kernel"], state_dict["blocks.11.attn.qkv.weight"].T
    )
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"],
        np.einsum("oihw->hwio", state_dict["patch_embed.proj.weight"]),
    )
    np.testing.assert_array_equal(
        variables["batch_stats"]["neck"]["up"]["bn"]["var"], state_dict["neck.up.bn.running_var"]
    )
    assert_same(to_state_dict(variables, BLOCK_RULES), state_dict)


LAYOUTS = {"identity": (1, 2, 3, 4), "linear": (2,), "conv": (3, 4, 5), "conv_transpose": (3, 4)}


@st.composite
def rules_and_weights(draw):
    """Layers of random kinds, depths and shapes, each in blocks that may be stacked."""
    rules, weights = [], {}
    for layer in range(draw(st.integers(1, 4))):
        transform = draw(st.sampled_from(sorted(LAYOUTS)))
        ndim = draw(st.sampled_from(LAYOUTS[transform]))
        shape = tuple(draw(st.lists(st.integers(1, 3), min_size=ndim, max_size=ndim)))
        stack = "i" if draw(st.booleans()) else None
        target = f"layer{layer}/{{part}}" + ("" if stack else "/block_{i}")
        collection = draw(st.sampled_from(["params", "batch_stats"]))
        rules.append(
            Rule(f"net.{{i}}.layer{layer}.{{part}}.w", f"{target}/w", transform, collection, stack)
        )
        for part in draw(st.sets(st.sampled_from(["a", "b_c", "d1"]), min_size=1)):
            for index in range(draw(st.integers(1, 12))):
                values = np.random.default_rng(len(weights)).standard_normal(shape)
                weights[f"net.{index}.layer{layer}.{part}.w"] = values
    return tuple(rules), weights


@settings(max_examples=100, deadline=None)
@given(rules_and_weights())
def test_mapping_there_and_back_is_the_identity(case):
    rules, weights = case
    variables = to_variables(weights, rules)
    back = to_state_dict(variables, rules)
    assert_same(back, weights)
    assert_same(flatten(to_variables(back, rules)), flatten(variables))


def test_scanned_blocks_lie_along_a_leading_axis():
    state_dict = {
        name: value for name, value in random_state_dict().items() if name.endswith("qkv.weight")
    }
    rules = linear("blocks.{i}.attn.qkv", "blocks/attn/qkv", stack="i")
    kernel = to_variables(state_dict, rules)["params"]["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.shape == (12, 4, 12)
    np.testing.assert_array_equal(kernel[10], state_dict["blocks.10.attn.qkv.weight"].T)


def test_hole_in_a_stack_is_missing():
    state_dict = random_state_dict()
    del state_dict["blocks.4.attn.qkv.bias"]
    rules = linear("blocks.{i}.attn.qkv", "blocks/attn/qkv", stack="i")
    _, report = match_variables(state_dict, rules)
    assert report.missing == ("blocks.4.attn.qkv.bias",)
    with pytest.raises(InvalidInputError, match="2 of 99999 positions"):
        match_variables({"blocks.0.x": np.ones(1), "blocks.99998.x": np.ones(1)}, [_stack_of("x")])


def _stack_of(name: str) -> Rule:
    return Rule(f"blocks.{{i}}.{name}", f"blocks/{name}", stack="i")


def split_heads(weight):
    """Fused [3 * dim, dim] of torch's attention -> three flax kernels [dim, dim]."""
    return tuple(np.ascontiguousarray(part.T) for part in np.split(weight, 3))


FUSED = Rule(
    "attn.{i}.in_proj_weight",
    tuple(f"attn_{{i}}/{name}/kernel" for name in ("query", "key", "value")),
    Transform(split_heads, lambda *parts: np.concatenate([part.T for part in parts])),
)


def test_one_array_split_into_three_and_joined_again():
    weight = np.arange(12.0).reshape(6, 2)
    variables = to_variables({"attn.0.in_proj_weight": weight}, [FUSED])
    np.testing.assert_array_equal(
        variables["params"]["attn_0"]["key"]["kernel"], np.array([[4.0, 6.0], [5.0, 7.0]])
    )
    assert_same(to_state_dict(variables, [FUSED]), {"attn.0.in_proj_weight": weight})


def test_half_of_a_joined_variable_is_missing():
    kernels = {"query": {"kernel": np.ones((2, 2))}, "key": {"kernel": np.ones((2, 2))}}
    with pytest.raises(InvalidInputError, match=r"missing \(1\): params/attn_0/value/kernel"):
        to_state_dict({"params": {"attn_0": kernels}}, [FUSED])


def test_transform_that_does_not_fit_names_rule_and_shape():
    with pytest.raises(InvalidInputError, match=r"in_proj_weight.*shape \(5, 2\)"):
        to_variables({"attn.0.in_proj_weight": np.ones((5, 2))}, [FUSED])
    with pytest.raises(InvalidInputError, match=r"head\.weight.*2 dimensions"):
        to_variables({"head.weight": np.ones(3)}, linear("head", "head"))


def model_shapes() -> dict:
    return to_variables(random_state_dict(), BLOCK_RULES)


def test_report_lists_every_misfit():
    state_dict = random_state_dict()
    state_dict["mask_token"] = np.ones(3)
    state_dict["decoder_pred.weight"] = np.ones(3)
    state_dict["blocks.12.norm1.bias"] = np.ones(4)
    state_dict["patch_embed.proj.bias"] = np.ones(5)
    del state_dict["cls_token"]
    variables, report = match_variables(
        state_dict, BLOCK_RULES, template=model_shapes(), ignore=("decoder_*",)
    )
    assert report.unexpected == ("mask_token", "blocks.12.norm1.bias")
    assert report.missing == ("params/cls_token",)
    assert report.misshaped == (("patch_embed.proj.bias", "params/patch_embed/bias", (5,), (4,)),)
    assert report.ignored == ("decoder_pred.weight",)
    assert len(report.matched) == report.num_wanted - 2 == len(flatten(variables))
    assert "bias" not in variables["params"]["patch_embed"]


def test_strict_raises_and_lenient_warns():
    state_dict = {name: value for name, value in random_state_dict().items() if "neck" in name}
    few = r"checkpoint matched 4 of 55 keys: so few"
    with pytest.raises(InvalidInputError, match=few + r".*missing \(51\).*and 43 more"):
        to_variables(state_dict, BLOCK_RULES, template=model_shapes())
    with pytest.warns(UserWarning, match=few):
        variables = to_variables(state_dict, BLOCK_RULES, template=model_shapes(), strict=False)
    assert set(flatten(variables["batch_stats"])) == {"neck/up/bn/mean", "neck/up/bn/var"}


def test_clean_match_is_silent_and_in_the_models_dtype():
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, "bfloat16"), model_shapes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variables = to_variables(random_state_dict(), BLOCK_RULES, template=template)
    assert variables["params"]["cls_token"].dtype == jnp.bfloat16


def test_merge_keeps_what_was_not_loaded():
    initial = {"params": {"head": {"kernel": np.zeros((2, 3))}, "body": np.zeros(2)}}
    merged = merge(initial, {"params": {"body": np.ones(2)}})
    np.testing.assert_array_equal(merged["params"]["body"], np.ones(2))
    np.testing.assert_array_equal(merged["params"]["head"]["kernel"], np.zeros((2, 3)))
    with pytest.raises(InvalidInputError, match="no variable 'params/tail'"):
        merge(initial, {"params": {"tail": np.ones(2)}})
    with pytest.raises(InvalidInputError, match=r"\(3,\), in the model \(2,\)"):
        merge(initial, {"params": {"body": np.ones(3)}})


AMBIGUOUS = {
    "one name, two rules": (
        (Rule("head.{name}", "head/{name}"), Rule("head.weight", "top/kernel")),
        {"head.weight": np.ones(1)},
        "'head.weight' is matched by more than one rule",
    ),
    "two names, one variable": (
        (Rule("a.{x}", "same/{x}"), Rule("b.{y}", "same/{y}")),
        {"a.1": np.ones(1), "b.1": np.ones(1)},
        "'a.1' and 'b.1' both make 'params/same/1'",
    ),
    "one path through another": (
        (Rule("a", "deep"), Rule("b", "deep/kernel")),
        {"a": np.ones(1), "b": np.ones(1)},
        "leads through another variable",
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_ambiguity_is_an_error(case):
    rules, state_dict, message = AMBIGUOUS[case]
    with pytest.raises(InvalidInputError, match=message):
        to_variables(state_dict, rules)


def test_ambiguity_on_the_way_back():
    rules = (Rule("a.{x}", "same/{x}"), Rule("b.{y}", "same/{y}"))
    with pytest.raises(InvalidInputError, match="more than one rule"):
        to_state_dict({"params": {"same": {"1": np.ones(1)}}}, rules)


def test_unnamed_variables_stop_an_export():
    variables = {"params": {"probe": {"kernel": np.ones(2)}, "cls_token": np.ones(2)}}
    with pytest.raises(InvalidInputError, match=r"variables matched 1 of 2.*params/probe/kernel"):
        to_state_dict(variables, BLOCK_RULES)
    assert set(to_state_dict(variables, BLOCK_RULES, ignore=("params/probe/*",))) == {"cls_token"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "a.{i}", "target": "a"},
        {"source": "a", "target": "a_{i}"},
        {"source": ("a.{i}", "b"), "target": "a_{i}"},
        {"source": "a", "target": "a", "stack": "i"},
        {"source": "a.{name}", "target": "a", "stack": "name"},
        {"source": "a", "target": "a", "transform": "transpose"},
    ],
)
def test_rules_that_cannot_be_inverted_are_refused(arguments):
    with pytest.raises(InvalidInputError, match="Rule"):
        Rule(**arguments)


@pytest.mark.parametrize("name", ["blocks.x.w", "blocks.01.w", "blocks.1.5.w", "blocks..w"])
def test_integer_placeholder_takes_only_integers(name):
    _, report = match_variables({name: np.ones(1)}, [Rule("blocks.{i}.w", "blocks_{i}/w")])
    assert report == Report(unexpected=(name,), num_wanted=1)
