"""The arms of the study and of its ablations: each is a list of overrides of the `Config`.

An override is a path and a value, as on the command line: {"distillation.target": "feature"} is
`--distillation.target feature`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.tinymim import Config
from lab.errors import require

Overrides = Mapping[str, Any]

# The ways to pre-train a student; "mae" is not distilled, "scratch" is not pre-trained.
MAIN: dict[str, Overrides] = {
    "mae": {},
    "cls": {"distillation.target": "cls"},
    "cls_whitened": {
        "distillation.target": "cls",
        "distillation.cls_loss": "whitened_smooth_l1",
    },
    "pooled": {"distillation.target": "pooled"},
    "feature": {"distillation.target": "feature"},
    "relation": {"distillation.target": "relation"},
}
NAMES = {
    "scratch": "scratch",
    "mae": "MAE",
    "cls": "CLS (KL)",
    "cls_whitened": "CLS (smooth-L1)",
    "pooled": "pooled (timm)",
    "feature": "feature",
    "relation": "relation (TinyMIM)",
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One point of an ablation.

    Attributes: claim, the id it belongs to; name, of the point; overrides; paper, the paper's value
      of this point, top-1 (%) of ViT-B on ImageNet unless said.
    """

    claim: str
    name: str
    overrides: Overrides
    paper: str = ""

    @property
    def label(self) -> str:
        """A name for files and logs."""
        return f"{self.claim}-{self.name}".replace(" ", "_").replace("+", "-").lower()


def _feature(name: str, paper: str) -> Arm:
    target = {"distillation.target": "feature", "distillation.feature": name}
    return Arm("C5", name, target, paper)


def _relations(kinds: tuple[str, ...], softmax: bool, paper: str) -> Arm:
    name = f"{'+'.join(kinds)}{'' if softmax else ' no softmax'}"
    overrides = {"distillation.relations": kinds, "distillation.softmax": softmax}
    return Arm("C6", name, overrides, paper)


MASKED = {"distillation.mask_ratio": 0.75}
REBUILT = MASKED | {"distillation.reconstruction_weight": 1.0}
THREE, TWO = ("qq", "kk", "vv"), ("qk", "vv")
ABLATIONS: tuple[Arm, ...] = (
    Arm("C4", "cls", {"distillation.target": "cls"}, "80.6"),
    Arm("C4", "cls+mae", {"distillation.target": "cls"} | REBUILT, "82.1"),
    _feature("output", "83.7"),
    _feature("ffn", "84.2"),
    _feature("ffn_res", "81.8"),
    _feature("attn", "84.1"),
    _feature("attn_res", "81.3"),
    _feature("qkv", "84.3"),
    _relations(THREE, False, "84.4"),
    _relations(THREE, True, "84.5"),
    _relations(TWO, False, "84.4"),
    _relations(TWO, True, "84.6"),
    *(Arm("C7", f"block {i}", {"distillation.target_block": i}) for i in (2, 3, 5, 6)),
    Arm("C9", "masked", MASKED, "83.9"),
    Arm("C9", "masked+mae", REBUILT, "84.0"),
    Arm("C10", "none", {"drop_path": 0.0}, "84.3"),
    Arm("C10", "student .2", {"drop_path": 0.2}, "84.3"),
    Arm("C10", "both .1", {"teacher_drop_path": 0.1}, "83.9"),
    Arm("heads", "4 in the target", {"distillation.teacher_target_heads": 4}),
    Arm("heads", "no cls token", {"distillation.include_cls": False}),
)


def overridden(config: Any, overrides: Overrides) -> Any:
    """A nested dataclass with the values at the given paths replaced.

    Raises: InvalidInputError for a path that does not exist.
    """
    for path, value in overrides.items():
        name, _, rest = path.partition(".")
        fields = [field.name for field in dataclasses.fields(config)]
        require(name in fields, f"{type(config).__name__} has no {name!r}; it has {fields}")
        new = overridden(getattr(config, name), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{name: new})
    return config


def main_arm(config: Config, name: str) -> Config:
    """The configuration of an arm of the study. Raises: InvalidInputError for an unknown one."""
    require(name in MAIN, f"an arm is one of {', '.join(MAIN)}, got {name!r}")
    return overridden(config, MAIN[name])


def ablation_arms(config: Config) -> list[tuple[Arm, Config]]:
    """The chosen ablations with their configurations, on fewer and smaller steps.

    An override that changes nothing names the default: it is left out but for one "default" arm,
    which the others are compared to.
    """
    known = {arm.claim for arm in ABLATIONS} | {"C8"}
    unknown = sorted(set(config.ablations) - known)
    require(not unknown, f"ablations are of {sorted(known)}, got {unknown}")
    if not set(config.ablations) - {"C8"}:
        return []
    base = overridden(
        config,
        {
            "repeats": 1,
            "pretraining.batch_size": config.ablation_batch_size,
            "pretraining.distill_steps": config.ablation_steps,
        },
    )
    chosen = [(Arm("default", "default", {}), base)]
    for arm in ABLATIONS:
        changed = overridden(base, arm.overrides)
        if arm.claim in config.ablations and changed != base:
            chosen.append((arm, changed))
    return chosen
