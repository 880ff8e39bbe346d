"""What of a checkpoint fitted a model, and what did not."""

import dataclasses
from collections.abc import Sequence

_LISTED = 8


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of matching named weights with a model's variables.

    Attributes:
      matched: paths of the variables that were found.
      unexpected: names in the checkpoint that nothing in the model answers to.
      missing: variables of the model, or parts of a rule, that the checkpoint lacks.
      misshaped: (name, path, shape in the checkpoint, shape in the model).
      ignored: names left out on request.
      num_wanted: how many variables the model has; without a model, names the checkpoint has.
    """

    matched: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    misshaped: tuple[tuple[str, str, tuple[int, ...], tuple[int, ...]], ...] = ()
    ignored: tuple[str, ...] = ()
    num_wanted: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether everything was found and nothing was left over."""
        return not (self.unexpected or self.missing or self.misshaped)

    def summary(self, what: str = "checkpoint") -> str:
        """A few lines: how much matched, then each kind of misfit, long lists shortened."""
        lines = [f"{what} matched {len(self.matched)} of {self.num_wanted} keys"]
        if 2 * len(self.matched) < self.num_wanted:
            lines[0] += ": so few that it is probably of another model or needs a prefix removed"
        shapes = [
            f"{name} {found} where {path} is {wanted}"
            for name, path, found, wanted in self.misshaped
        ]
        for title, names in (
            ("unexpected", self.unexpected),
            ("missing", self.missing),
            ("of another shape", shapes),
        ):
            if names:
                lines.append(f"{title} ({len(names)}): {_shortened(names)}")
        return "; ".join(lines)


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
