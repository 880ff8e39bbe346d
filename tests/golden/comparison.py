"""Compares what a handler computed with what a golden file holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.golden.entries import Entry

RULES = {"atol", "rtol", "scale", "mask_min_abs_grad", "key_bias_atol"}


def disagreements(entry: Entry, computed: Mapping[str, Any]) -> list[str]:
    """One line for each compared key that is missing or out of tolerance; empty means a pass.

    `computed` must hold every key of `entry.expected`. Two more names are checked: one of the
    entry's `other_files` (equal bytes) and `config/<name>` (equal to that configuration value).
    Where the manifest does not say what an entry compares, the handler says it: any key of
    `entry.arrays`. An entry for which nothing is compared fails.
    """
    expected = dict(entry.expected) or {k: entry.arrays[k] for k in computed if k in entry.arrays}
    for name in computed:
        if name.startswith("config/"):
            expected[name] = entry.config[name.removeprefix("config/")]
        elif name in entry.manifest_entry.get("other_files", {}):
            expected[name] = entry.other_file(name).read_bytes()
    problems = [f"{key}: not computed" for key in expected if key not in computed]
    problems += [f"{key}: not a key that this entry compares" for key in computed.keys() - expected]
    if not expected:
        problems.append("nothing was compared")
    for key in expected.keys() & computed.keys():
        problem = difference(computed[key], expected[key], limits(entry, key, expected[key]))
        problems += [f"{key}: {problem}"] if problem else []
    return sorted(problems)


def limits(entry: Entry, key: str, expected: Any) -> dict[str, Any]:
    """The rule for one key as {"atol", "rtol", "compared"}, each a number or an array.

    `compared` marks the elements that count: all, or with `mask_min_abs_grad` those of
    `param_after<k>/<name>` whose |grad/<name>| in the file is larger.
    """
    rule = entry.tolerance(key)
    unknown = set(rule) - RULES
    if unknown:
        raise ValueError(f"{entry.id}: tolerance rules {sorted(unknown)} are not known")
    atol, compared = rule["atol"], True
    if "scale" in rule:
        largest = np.nanmax(np.abs(expected), initial=0.0)
        atol = atol * (max(1.0, largest) if rule["scale"] == "max1" else largest)
    if "key_bias_atol" in rule and key.endswith("attn.qkv.bias"):
        atol = np.full(np.shape(expected), atol)
        third = len(atol) // 3
        atol[third : 2 * third] = rule["key_bias_atol"]
    if "mask_min_abs_grad" in rule:
        gradient = entry.arrays.get("grad/" + key.partition("/")[2])
        if gradient is not None:
            compared = np.abs(gradient) > rule["mask_min_abs_grad"]
    return {"atol": atol, "rtol": rule["rtol"], "compared": compared}


def difference(computed: Any, expected: Any, rule: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, or None: |a - b| <= atol + rtol |b|, NaN where NaN.

    Shapes are equal; integers and booleans are not floats; strings, bytes and null are equal.
    A numpy masked array leaves its masked elements out.
    """
    if isinstance(expected, dict):
        return _difference_of_objects(computed, expected, rule)
    if isinstance(expected, list) and not _is_numeric(expected):
        if not isinstance(computed, list | tuple) or len(computed) != len(expected):
            return f"not a list of {len(expected)}: {computed!r:.100}"
        pairs = enumerate(zip(computed, expected, strict=True))
        found = ((i, difference(a, b, rule)) for i, (a, b) in pairs)
        return next((f"[{i}]: {problem}" for i, problem in found if problem), None)
    if expected is None or isinstance(expected, str | bytes):
        same = type(computed) is type(expected) and computed == expected
        return None if same else f"{computed!r:.100} is not {expected!r:.100}"
    return _difference_of_arrays(computed, np.asarray(expected), rule)


def _difference_of_objects(computed, expected, rule) -> str | None:
    if not isinstance(computed, Mapping) or set(computed) != set(expected):
        return f"keys are not {sorted(expected)[:8]}: {computed!r:.100}"
    found = ((key, difference(computed[key], expected[key], rule)) for key in expected)
    return next((f"{key}: {problem}" for key, problem in found if problem), None)


def _is_numeric(values: list) -> bool:
    try:
        return bool(values) and np.asarray(values).dtype.kind in "bif"
    except ValueError:
        return False


def _difference_of_arrays(computed, expected: np.ndarray, rule) -> str | None:
    left_out = np.ma.getmaskarray(computed) if np.ma.isMaskedArray(computed) else False
    computed = np.asarray(computed)
    if computed.shape != expected.shape:
        return f"shape {computed.shape} is not {expected.shape}"
    if expected.dtype.kind not in "biuf":
        equal = np.array_equal(computed.astype(expected.dtype), expected)
        return None if equal else f"differs from {expected!r:.100}"
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[expected.dtype.kind]
    if computed.dtype.kind not in allowed:
        return f"dtype {computed.dtype} is not {expected.dtype}"
    compared = np.broadcast_to(
        np.logical_and(rule["compared"], ~np.asarray(left_out)), expected.shape
    )
    # Only a handler may not leave everything out: where a rule does (a parameter whose gradient is
    # zero everywhere), there is nothing to compare.
    if np.any(rule["compared"]) and expected.size and not compared.any():
        return "no element is compared"
    exact = np.result_type(computed, expected, np.float64 if expected.dtype.kind == "f" else int)
    a, b = computed.astype(exact), expected.astype(exact)
    with np.errstate(invalid="ignore"):
        close = (a == b) | (np.abs(a - b) <= rule["atol"] + rule["rtol"] * np.abs(b))
    wrong = compared & ~(close | (np.isnan(a) & np.isnan(b)))
    if not wrong.any():
        return None
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"{wrong.sum()} of {expected.size} differ, first at {where}: {a[where]} for {b[where]}"
