"""Weights from elsewhere, without the framework that wrote them.

- `load_checkpoint`, `Checkpoint`, `save_safetensors`: files as mappings of numpy arrays.
- `Rule`, `Transform`, the rules of common layers (`linear`, `conv`, `batch_norm`, ...),
  `to_variables`, `to_state_dict`, `match_variables`, `merge`, `Report`: official names and layouts
  to flax variables and back.
"""

from lab.interop.checkpoint_files import (
    PAYLOAD_KEYS,
    Checkpoint,
    load_checkpoint,
    save_safetensors,
)
from lab.interop.mapping import (
    TRANSFORMS,
    Rule,
    Transform,
    batch_norm,
    conv,
    conv_transpose,
    embedding,
    layer_norm,
    linear,
    match_variables,
    merge,
    to_state_dict,
    to_variables,
)
from lab.interop.match_report import Report

__all__ = [
    "PAYLOAD_KEYS",
    "TRANSFORMS",
    "Checkpoint",
    "Report",
    "Rule",
    "Transform",
    "batch_norm",
    "conv",
    "conv_transpose",
    "embedding",
    "layer_norm",
    "linear",
    "load_checkpoint",
    "match_variables",
    "merge",
    "save_safetensors",
    "to_state_dict",
    "to_variables",
]
