"""The algorithms as update rules of one round (`rounds.make_round`).

mix = W @ models, g = a user's gradient, h_E = where local training ends that began at h_0.

| name | h_0 | model | read out |
| --- | --- | --- | --- |
| dacfl | mix(omega) | h_E | x <- mix(x) + omega' - omega |
| cdsgd | omega | mix(omega) + h_E - h_0 (with momentum: + v, v <- m v + h_E - h_0) | omega |
| dpsgd | omega | as cdsgd | mean over users of omega |
| dsgt | - | mix(omega - lr y), y <- mix(y) + g' - g | omega |
| dfedavg | omega | mix(h_E) | omega |
| exact_diffusion | omega | (phi + mix(phi)) / 2, phi = h_E + omega - the h_E before | omega |
| fedavg | server | weighted mean of the active users' h_E | server |
| local | omega | h_E | omega |
| centralised | omega | steps along the mean gradient of all users | omega |

dfedavg: Sun et al., 2022, without momentum. exact_diffusion: Yuan et al., 2019, with (I + W) / 2;
with exact gradients it ends at the optimum of all users, which CDSGD and DFedAvg miss.
"""

import dataclasses
from typing import Any

from lab.errors import require
from lab.papers.dacfl.topology import require_known

NAMES = (
    "dacfl",
    "cdsgd",
    "dpsgd",
    "dsgt",
    "dfedavg",
    "exact_diffusion",
    "fedavg",
    "local",
    "centralised",
)
_GRADIENT_POINTS = ("local", "mixed")
_WITH_GRADIENT_POINT = ("dacfl", "cdsgd", "dpsgd")


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """An algorithm and its options; make one with `algorithm(name, ...)`.

    Attributes:
      name: one of NAMES.
      gradient_at: where local training starts, the `local` unmixed or the `mixed` model.
      momentum: of CDSGD's heavy ball (CDMSGD), 0 for none.
      reset_every: DACFL sets x to omega after every so many rounds; 0 never.
    """

    name: str
    gradient_at: str = "local"
    momentum: float = 0.0
    reset_every: int = 0

    def __post_init__(self) -> None:
        require_known(self.name, NAMES, "algorithm")
        require_known(self.gradient_at, _GRADIENT_POINTS, "gradient_at")
        require(
            self.gradient_at == "local" or self.name in _WITH_GRADIENT_POINT,
            f"gradient_at='mixed' is for {', '.join(_WITH_GRADIENT_POINT)}, not {self.name}",
        )
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}")
        require(
            self.momentum == 0 or self.name in ("cdsgd", "dpsgd"),
            f"momentum is an option of cdsgd and dpsgd, not of {self.name}",
        )
        require(self.reset_every >= 0, f"reset_every must not be negative, got {self.reset_every}")
        require(
            self.reset_every == 0 or self.name == "dacfl",
            f"reset_every is an option of dacfl, not of {self.name}",
        )

    @property
    def tracks_models(self) -> bool:
        """Whether each user keeps x, an estimate of the mean model."""
        return self.name == "dacfl"

    @property
    def tracks_gradients(self) -> bool:
        """Whether each user keeps y, an estimate of the mean gradient."""
        return self.name == "dsgt"

    @property
    def gossips(self) -> bool:
        """Whether users mix their models with their neighbours'."""
        return self.name not in ("fedavg", "local", "centralised")

    @property
    def corrects(self) -> bool:
        """Whether each user keeps where its last local training ended (exact diffusion)."""
        return self.name == "exact_diffusion"

    @property
    def outputs_mean(self) -> bool:
        """Whether the output is one model for all, the mean of omega."""
        return self.name == "dpsgd"

    @property
    def messages_per_link(self) -> int:
        """Arrays of a model's size sent over each link in a round."""
        return (1 + self.tracks_models + self.tracks_gradients) if self.gossips else 0


def algorithm(name: str, **options: Any) -> Algorithm:
    """The algorithm of that name with its usual options unless others are given.

    Raises: InvalidInputError for an unknown name (the nearest known one is named) or option.
    """
    defaults: dict[str, Any] = {"gradient_at": "mixed"} if name == "dacfl" else {}
    known = {field.name for field in dataclasses.fields(Algorithm)} - {"name"}
    for option in options:
        require_known(option, known, "option of an algorithm")
    return Algorithm(name, **defaults | options)


def as_algorithm(given: str | Algorithm) -> Algorithm:
    """A name, or an Algorithm as it is."""
    return given if isinstance(given, Algorithm) else algorithm(given)
