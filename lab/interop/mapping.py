"""Names and layouts of torch weights <-> flax variables, as rules that work both ways.

A paper's `convert.py` is a tuple of rules and two calls:

    RULES = (
        *conv("patch_embed.proj", "patch_embed"),
        *layer_norm("blocks.{i}.norm1", "blocks_{i}/norm1"),
        *linear("blocks.{i}.attn.qkv", "blocks_{i}/attn/qkv"),
        Rule("cls_token", "cls_token"),
    )
    variables = to_variables(load_checkpoint(path), RULES, template=shapes, ignore=("decoder_*",))
    state_dict = to_state_dict(variables, RULES)
"""

import dataclasses
import fnmatch
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lab.errors import InvalidInputError, require
from lab.interop.match_report import Report

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of layout and its inverse.

    `forward(*source_arrays)` gives the target's array, or a tuple of arrays where the rule has
    several targets; `inverse(*target_arrays)` gives the source's again.
    """

    forward: Callable[..., Any]
    inverse: Callable[..., Any]


def _transposed(array: np.ndarray) -> np.ndarray:
    require(array.ndim == 2, f"a linear layer's weight has 2 dimensions, not shape {array.shape}")
    return array.T


def _kernel_last(array: np.ndarray) -> np.ndarray:
    require(array.ndim > 2, f"a convolution's weight has 3 or more dimensions, not {array.shape}")
    return np.moveaxis(array, (0, 1), (-1, -2))


def _kernel_first(array: np.ndarray) -> np.ndarray:
    require(array.ndim > 2, f"a convolution's kernel has 3 or more dimensions, not {array.shape}")
    return np.moveaxis(array, (-1, -2), (0, 1))


def _up_kernel_last(array: np.ndarray) -> np.ndarray:
    require(array.ndim > 2, f"a convolution's weight has 3 or more dimensions, not {array.shape}")
    return np.flip(np.moveaxis(array, (0, 1), (-2, -1)), tuple(range(array.ndim - 2)))


def _up_kernel_first(array: np.ndarray) -> np.ndarray:
    require(array.ndim > 2, f"a convolution's kernel has 3 or more dimensions, not {array.shape}")
    return np.moveaxis(np.flip(array, tuple(range(array.ndim - 2))), (-2, -1), (0, 1))


TRANSFORMS: Mapping[str, Transform] = {
    "identity": Transform(lambda array: array, lambda array: array),
    # [out, in] <-> [in, out]
    "linear": Transform(_transposed, _transposed),
    # [out, in, *window] <-> [*window, in, out], any number of window dimensions, also grouped
    "conv": Transform(_kernel_last, _kernel_first),
    # [in, out, *window] <-> [*window, in, out]; torch applies the window mirrored, flax as it is
    "conv_transpose": Transform(_up_kernel_last, _up_kernel_first),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One kind of weight: its official name(s), its path(s) in the variables, and the layout.

    Attributes:
      source: dotted official name, such as "blocks.{i}.attn.qkv.weight". A placeholder of one
        letter stands for a non-negative integer, a longer one for a single part of the name. A
        tuple of names where several arrays make one.
      target: path below the collection, such as "blocks_{i}/attn/qkv/kernel", with the same
        placeholders. A tuple of paths where one array is split.
      transform: a key of TRANSFORMS, or a Transform.
      collection: "params", "batch_stats", ...
      stack: a placeholder of the source that the target lacks: the arrays for 0, 1, ... lie along a
        leading axis of the target, as `nn.scan` over equal blocks keeps them.
    """

    source: str | tuple[str, ...]
    target: str | tuple[str, ...]
    transform: str | Transform = "identity"
    collection: str = "params"
    stack: str | None = None

    def __post_init__(self) -> None:
        is_known = isinstance(self.transform, Transform) or self.transform in TRANSFORMS
        require(is_known, f"{self}: transform is a Transform or one of {', '.join(TRANSFORMS)}")
        stacked = {self.stack} if self.stack else set()
        require(all(len(name) == 1 for name in stacked), f"{self}: only integers can be stacked")
        wanted = _placeholders(self.sources[0])
        require(stacked <= wanted, f"{self}: the source has no placeholder {{{self.stack}}}")
        for pattern in self.sources:
            require(_placeholders(pattern) == wanted, f"{self}: {pattern!r} has other placeholders")
        for pattern in self.targets:
            same = _placeholders(pattern) == wanted - stacked
            require(same, f"{self}: {pattern!r} has other placeholders than the source")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def targets(self) -> tuple[str, ...]:
        """Paths with the collection in front."""
        paths = (self.target,) if isinstance(self.target, str) else self.target
        return tuple(f"{self.collection}/{path}" for path in paths)

    @property
    def layout(self) -> Transform:
        transform = self.transform
        return transform if isinstance(transform, Transform) else TRANSFORMS[transform]


def linear(source: str, target: str, *, stack: str | None = None) -> tuple[Rule, ...]:
    """The rules of `torch.nn.Linear` <-> `flax.linen.Dense`, with or without a bias."""
    return _layer(source, target, "linear", stack)


def conv(source: str, target: str, *, stack: str | None = None) -> tuple[Rule, ...]:
    """The rules of `torch.nn.Conv1d/2d/3d` <-> `flax.linen.Conv`."""
    return _layer(source, target, "conv", stack)


def conv_transpose(source: str, target: str, *, stack: str | None = None) -> tuple[Rule, ...]:
    """The rules of `torch.nn.ConvTranspose1d/2d/3d` <-> `flax.linen.ConvTranspose`."""
    return _layer(source, target, "conv_transpose", stack)


def _layer(source: str, target: str, transform: str, stack: str | None) -> tuple[Rule, ...]:
    return (
        Rule(f"{source}.weight", f"{target}/kernel", transform, stack=stack),
        Rule(f"{source}.bias", f"{target}/bias", stack=stack),
    )


def embedding(source: str, target: str) -> tuple[Rule, ...]:
    """The rule of `torch.nn.Embedding` <-> `flax.linen.Embed`."""
    return (Rule(f"{source}.weight", f"{target}/embedding"),)


def layer_norm(source: str, target: str, *, stack: str | None = None) -> tuple[Rule, ...]:
    """The rules of torch's LayerNorm, GroupNorm and RMSNorm <-> flax's."""
    return (
        Rule(f"{source}.weight", f"{target}/scale", stack=stack),
        Rule(f"{source}.bias", f"{target}/bias", stack=stack),
    )


def batch_norm(source: str, target: str, *, stack: str | None = None) -> tuple[Rule, ...]:
    """The rules of `torch.nn.BatchNorm*` <-> `flax.linen.BatchNorm` and its batch_stats.

    Add "*.num_batches_tracked" to `ignore`: flax keeps no such count, and torch does not ask for it
    when it loads a state dict.
    """
    statistics = functools.partial(Rule, collection="batch_stats", stack=stack)
    return (
        *layer_norm(source, target, stack=stack),
        statistics(f"{source}.running_mean", f"{target}/mean"),
        statistics(f"{source}.running_var", f"{target}/var"),
    )


def match_variables(
    state_dict: Mapping[str, Any],
    rules: Iterable[Rule],
    *,
    ignore: Sequence[str] = (),
    template: Any = None,
) -> tuple[dict[str, Any], Report]:
    """Translates what can be translated and reports the rest.

    Args:
      state_dict: arrays by official name, such as a Checkpoint.
      ignore: shell-style patterns of official names to leave out, such as "decoder_*".
      template: nested dict {collection: {...: leaf with `.shape`}} of the model's variables, such
        as `jax.eval_shape(model.init, ...)` gives. Arrays are cast to the template's dtype; those
        that it lacks, or has in another shape, are left out and reported.
    Returns: (nested dict {"params": ..., ...} of numpy arrays, Report).
    Raises: InvalidInputError where two rules match one name or make one variable.
    """
    rules = tuple(rules)
    ignored = [n for n in state_dict if any(fnmatch.fnmatchcase(n, glob) for glob in ignore)]
    skipped = set(ignored)
    found, unexpected = _matches([n for n in state_dict if n not in skipped], rules, "sources")
    flat: dict[str, np.ndarray] = {}
    made_from: dict[str, str] = {}
    incomplete: list[str] = []
    present = {name for _, name, _ in found}
    for rule, bindings, names in _groups(found, rules):
        absent = [name for name in names if name not in present]
        if absent:
            incomplete += absent
            continue
        arrays = _forward(rule, names, state_dict)
        for pattern, array in zip(rule.targets, arrays, strict=True):
            path = _fill(pattern, bindings)
            _require_new(path, made_from, names[0])
            flat[path] = array
    wanted = None if template is None else flatten(template)
    flat, report = _fit(flat, made_from, wanted)
    report = dataclasses.replace(
        report,
        unexpected=(*unexpected, *report.unexpected),
        missing=(*incomplete, *report.missing),
        ignored=tuple(ignored),
        num_wanted=len(found) + len(unexpected) if wanted is None else len(wanted),
    )
    return unflatten(flat), report


def to_variables(
    state_dict: Mapping[str, Any],
    rules: Iterable[Rule],
    *,
    ignore: Sequence[str] = (),
    template: Any = None,
    strict: bool = True,
) -> dict[str, Any]:
    """The flax variables of a state dict; arguments as in `match_variables`.

    With `strict=False` what does not fit is left out (see `merge`), with a warning that lists it.
    Raises: InvalidInputError, if `strict`, listing names that are unexpected, missing or of another
      shape; or where rules contradict each other.
    """
    variables, report = match_variables(state_dict, rules, ignore=ignore, template=template)
    require(report.is_clean or not strict, report.summary())
    if not report.is_clean:
        warnings.warn(report.summary(), stacklevel=2)
    return variables


def to_state_dict(
    variables: Mapping[str, Any], rules: Iterable[Rule], *, ignore: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The official names and layouts of flax variables: the inverse of `to_variables`.

    Args:
      variables: nested dict {"params": ..., ...} of numpy or JAX arrays.
      ignore: shell-style patterns of paths ("params/probe/*") to leave out.
    Raises: InvalidInputError for variables that no rule names, or where rules contradict.
    """
    rules = tuple(rules)
    flat = {
        path: value
        for path, value in flatten(variables).items()
        if not any(fnmatch.fnmatchcase(path, glob) for glob in ignore)
    }
    found, unexpected = _matches(list(flat), rules, "targets")
    state_dict: dict[str, np.ndarray] = {}
    made_from: dict[str, str] = {}
    incomplete: list[str] = []
    for index, bindings in dict.fromkeys((index, bindings) for index, _, bindings in found):
        rule = rules[index]
        paths = [_fill(pattern, bindings) for pattern in rule.targets]
        absent = [path for path in paths if path not in flat]
        if absent:
            incomplete += absent
            continue
        for name, array in _inverse(rule, bindings, [np.asarray(flat[path]) for path in paths]):
            _require_new(name, made_from, paths[0])
            state_dict[name] = array
    report = Report(
        matched=tuple(state_dict),
        unexpected=tuple(unexpected),
        missing=tuple(incomplete),
        num_wanted=len(flat),
    )
    require(report.is_clean, report.summary("variables"))
    return state_dict


def merge(initial: Mapping[str, Any], loaded: Mapping[str, Any]) -> dict[str, Any]:
    """`initial` variables with those of `loaded` in their place.

    Raises: InvalidInputError if `loaded` has a path that `initial` lacks, or another shape.
    """
    flat, found = flatten(initial), flatten(loaded)
    for path, value in found.items():
        require(path in flat, f"the model has no variable {path!r}")
        same = np.shape(flat[path]) == np.shape(value)
        shapes = f"{np.shape(value)}, in the model {np.shape(flat[path])}"
        require(same, f"{path!r} has shape {shapes}")
    return unflatten(flat | found)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by path, such as "params/blocks_0/attn/qkv/kernel"."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from leaves by path.

    Raises: InvalidInputError if one path leads through the leaf of another.
    """
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            require(isinstance(node, dict), f"{path!r} leads through another variable")
        require(name not in node, f"{path!r} leads through another variable")
        node[name] = value
    return tree


def _placeholders(pattern: str) -> set[str]:
    return set(_PLACEHOLDER.findall(pattern))


@functools.cache
def _regex(pattern: str) -> re.Pattern:
    expression, seen = "", set()
    # split() puts the placeholders' names at the odd positions
    for position, part in enumerate(_PLACEHOLDER.split(pattern)):
        if position % 2 == 0:
            expression += re.escape(part)
        elif part in seen:
            expression += f"(?P={part})"
        else:
            # no leading zeros: each integer has one spelling, so that names come back the same
            value = r"0|[1-9][0-9]{0,8}" if len(part) == 1 else r"[^./]+"
            expression += f"(?P<{part}>{value})"
            seen.add(part)
    return re.compile(expression)


def _fill(pattern: str, bindings: Iterable[tuple[str, str]]) -> str:
    values = dict(bindings)
    return _PLACEHOLDER.sub(lambda match: values[match[1]], pattern)


def _matches(names: Iterable[str], rules: tuple[Rule, ...], side: str):
    """([(rule index, name, bindings)], names that no rule matches); bindings are hashable."""
    found, unmatched = [], []
    patterns = [(i, _regex(p)) for i, rule in enumerate(rules) for p in getattr(rule, side)]
    for name in names:
        hits = [(i, match) for i, regex in patterns if (match := regex.fullmatch(name))]
        if len(hits) > 1:
            which = " and ".join(str(rules[i].source) for i, _ in hits)
            raise InvalidInputError(f"{name!r} is matched by more than one rule: {which}")
        for i, match in hits:
            found.append((i, name, tuple(sorted(match.groupdict().items()))))
        if not hits:
            unmatched.append(name)
    return found, unmatched


def _groups(found, rules: tuple[Rule, ...]):
    """Yields (rule, bindings of its targets, the source names that make them).

    Names come position by position of the stack, within it source by source.
    """
    positions: dict[tuple, set[int]] = {}
    for index, _, bindings in found:
        stack = rules[index].stack
        outer = tuple(pair for pair in bindings if pair[0] != stack)
        position = int(dict(bindings)[stack]) if stack else 0
        positions.setdefault((index, outer), set()).add(position)
    for (index, outer), present in positions.items():
        rule = rules[index]
        # a stack that skips a number has a hole, which the caller reports as missing; one that
        # skips most numbers is another thing altogether
        count = max(present) + 1
        too_sparse = f"{rule.source}: only {len(present)} of {count} positions of a stack are there"
        require(count <= 2 * len(present) + 8, too_sparse)
        names = [
            _fill(pattern, (*outer, (rule.stack, str(position))) if rule.stack else outer)
            for position in range(count)
            for pattern in rule.sources
        ]
        yield rule, outer, names


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _transformed(rule: Rule, fn: Callable, arrays: list[np.ndarray], count: int) -> tuple:
    try:
        results = _as_tuple(fn(*arrays))
    except (ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InvalidInputError(
            f"{rule.source} <-> {rule.target}: shape {shapes} does not fit: {error}"
        ) from error
    made = f"{rule.source} <-> {rule.target}: {len(results)} arrays made, {count} named"
    require(len(results) == count, made)
    return results


def _forward(rule: Rule, names: list[str], state_dict: Mapping[str, Any]) -> list[np.ndarray]:
    width = len(rule.sources)
    layers = []
    for start in range(0, len(names), width):
        arrays = [np.asarray(state_dict[name]) for name in names[start : start + width]]
        layers.append(_transformed(rule, rule.layout.forward, arrays, len(rule.targets)))
    if rule.stack is None:
        return list(layers[0])
    return [_stacked(rule, parts) for parts in zip(*layers, strict=True)]


def _stacked(rule: Rule, parts: tuple) -> np.ndarray:
    shapes = {part.shape for part in parts}
    require(len(shapes) == 1, f"{rule.source}: a stack of unequal shapes {sorted(shapes)}")
    return np.stack(parts)


def _inverse(rule: Rule, bindings: tuple, arrays: list[np.ndarray]):
    """Yields (official name, array)."""
    if rule.stack is None:
        layers = [(bindings, arrays)]
    else:
        depths = {array.shape[:1] for array in arrays}
        same = f"{rule.target}: leading axes {sorted(depths)} are not one stack"
        require(len(depths) == 1 and depths != {()}, same)
        layers = [
            ((*bindings, (rule.stack, str(i))), [array[i] for array in arrays])
            for i in range(len(arrays[0]))
        ]
    for names, parts in layers:
        results = _transformed(rule, rule.layout.inverse, parts, len(rule.sources))
        for pattern, array in zip(rule.sources, results, strict=True):
            yield _fill(pattern, names), array


def _require_new(name: str, made_from: dict[str, str], origin: str) -> None:
    if name in made_from:
        raise InvalidInputError(f"{made_from[name]!r} and {origin!r} both make {name!r}")
    made_from[name] = origin


def _fit(flat: dict, made_from: dict[str, str], wanted: Mapping[str, Any] | None):
    """(what fits the wanted shapes, cast to their dtypes, Report of what does not)."""
    if wanted is None:
        return flat, Report(matched=tuple(flat))
    fitting, unexpected, misshaped = {}, [], []
    for path, array in flat.items():
        leaf = wanted.get(path)
        if leaf is None:
            unexpected.append(made_from[path])
        elif tuple(leaf.shape) != array.shape:
            misshaped.append((made_from[path], path, array.shape, tuple(leaf.shape)))
        else:
            fitting[path] = array.astype(getattr(leaf, "dtype", array.dtype), copy=False)
    missing = tuple(path for path in wanted if path not in flat)
    return fitting, Report(tuple(fitting), tuple(unexpected), missing, tuple(misshaped))
