"""How a student is distilled, and what the released code chose."""

import dataclasses
from typing import Literal

import optax

from lab.errors import require, require_given
from lab.papers.reliant.losses import GeneratorLoss, KDLoss
from lab.papers.reliant.models import PLPConfig, SGCConfig
from lab.papers.reliant.objective import RELIANT, FairnessConfig
from lab.papers.reliant.selection import SelectBy

Framework = Literal["cpf", "akd", "kd", "vani"]
DEFAULT_PLP, DEFAULT_SGC = PLPConfig(), SGCConfig()
UNRESOLVED = "the config has fields that are None: give them, or take config.resolved()"


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """A student, how it is distilled and how it is selected.

    Attributes:
      framework: "cpf" (label propagation), "akd" (GraphAKD), "kd" (plain logit distillation of the
        SGC student), "vani" (the SGC student on labels alone, no teacher).
      fairness: what RELIANT adds.
      alpha: weight of the bias; None: 1000 for CPF, 10 for the others, as released.
      plp, sgc: the students' shapes.
      learning_rate, proxy_learning_rate, critic_learning_rate, weight_decay: of Adam with L2 added
        to the gradient; None: as released. The weight decay acts on the proxy too.
      kd_loss, round_teacher: CPF's distance to the teacher, and the decimals of its probabilities.
      akd_g_loss, d_critic, g_critic: GraphAKD's student loss ("official" holds its known fault) and
        after how many epochs the discriminators and the student take a step.
      project_embedding: GraphAKD, a linear map between student and teacher of different widths.
      noisy_eval: evaluate with dropout, as the released GraphAKD code does by mistake.
      temperature, label_weight: of "kd".
      max_epochs, patience, select_by: None: as released (CPF 1000, 500, validation accuracy;
        GraphAKD 600, none, validation loss).
      min_accuracy, min_auc: thresholds of select_by "fair".
    """

    framework: Framework = "cpf"
    fairness: FairnessConfig = RELIANT
    alpha: float | None = None
    plp: PLPConfig = DEFAULT_PLP
    sgc: SGCConfig = DEFAULT_SGC
    learning_rate: float | None = None
    proxy_learning_rate: float | None = None
    critic_learning_rate: float | None = None
    weight_decay: float | None = None
    kd_loss: KDLoss = "l2"
    round_teacher: int | None = 4
    akd_g_loss: GeneratorLoss = "official"
    d_critic: int = 1
    g_critic: int = 1
    project_embedding: bool = False
    noisy_eval: bool = False
    temperature: float = 10.0
    label_weight: float = 0.5
    max_epochs: int | None = None
    patience: int | None = None
    select_by: SelectBy | None = None
    min_accuracy: float = 0.0
    min_auc: float = 0.0

    def __post_init__(self) -> None:
        require(
            self.framework in RELEASED,
            f"framework is {self.framework!r}; accepted: {', '.join(RELEASED)}",
        )
        choices = {
            "kd_loss": ("l2", "bce", "kl"),
            "akd_g_loss": ("official", "fixed"),
            "select_by": (None, "val_accuracy", "val_loss", "fair", "last"),
        }
        for name, accepted in choices.items():
            value = getattr(self, name)
            require(value in accepted, f"{name} is {value!r}; accepted: {accepted}")
        for name in ("d_critic", "g_critic"):
            require(
                getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; accepted: 1 and up"
            )
        epochs = self.max_epochs
        require(epochs is None or epochs >= 1, f"max_epochs is {epochs}; accepted: 1 and above")

    def resolved(self) -> "StudentConfig":
        """The same with the released code's values in place of None."""
        released = RELEASED[self.framework]
        given = {name: getattr(self, name) for name in released}
        chosen = {name: released[name] if v is None else v for name, v in given.items()}
        return dataclasses.replace(self, **chosen)


_AKD = {
    "alpha": 10.0,
    "learning_rate": 1e-4,
    "proxy_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "weight_decay": 5e-4,
    "max_epochs": 600,
    "patience": None,
    "select_by": "val_loss",
}
RELEASED = {
    "cpf": {
        "alpha": 1000.0,
        "learning_rate": 0.01,
        "proxy_learning_rate": 0.01,
        "critic_learning_rate": 0.01,
        "weight_decay": 0.01,
        "max_epochs": 1000,
        "patience": 500,
        "select_by": "val_accuracy",
    },
    "akd": _AKD,
    "kd": {**_AKD, "learning_rate": 1e-3},
    "vani": {**_AKD, "learning_rate": 1e-3},
}
# CPF's student on each data set of the released code, by teacher; all with weight decay 0.01.
CPF_RELEASED = {
    ("gcn", "bail"): (10, 0.01),
    ("gcn", "credit"): (10, 0.01),
    ("gcn", "dblp_small"): (10, 0.001),
    ("gcn", "dblp_medium"): (5, 0.001),
    ("gcn", "german"): (8, 0.01),
    ("sage", "bail"): (10, 0.01),
    ("sage", "credit"): (10, 0.01),
    ("sage", "dblp_small"): (10, 0.01),
    ("sage", "dblp_medium"): (5, 0.01),
    ("sage", "german"): (10, 0.001),
}


def optimizers(config: StudentConfig) -> dict[str, optax.GradientTransformation]:
    """Adam with L2 in the gradient for every player; the proxy's ascends the bias."""
    rates = {
        "student": config.learning_rate,
        "proxy": config.proxy_learning_rate,
        "critics": config.critic_learning_rate,
    }
    weight_decay = require_given(config.weight_decay, UNRESOLVED)
    return {
        name: coupled_adam(require_given(rate, UNRESOLVED), weight_decay)
        for name, rate in rates.items()
    }


def coupled_adam(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Adam whose gradient holds weight_decay * parameter, as PyTorch's (not AdamW)."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))
