"""A small library of grooves, written down by us from common public rhythms; needs no file.

Every style is a bar that carries it, a variant, and a fill, in rows as drummers write them: a row a
drum, a column a 16th note. Swing and shuffle put the third triplet on the fourth 16th.
"""

import dataclasses

import numpy as np

from lab.errors import InvalidInputError, require
from lab.papers.drums.grid import Groove
from lab.papers.drums.notation import COLUMNS, HIT, MEASURE, WIDTH
from lab.papers.drums.rows import Row, make_row

_NAMES = {"cr": "crash", "ri": "ride", "sn": "snare", "ki": "kick", "hh": "hi-hat", "to": "tom"}

_BARS = {
    "rock": """
        hh o-o-o-o-o-o-o-o-   hh o-o-o-o-o-o-o-o-   sn ----o---oooo----
        sn ----o-------o---   sn ----o-------o--o   to ------------oooo
        ki o-------o-o-----   ki o-o-----o-o-----   ki o-------o-------
    """,
    "hard_rock": """
        cr o---------------   hh o---o---o---o---   sn o-o-o-o-oo------
        hh ----o---o---o---   sn ----o-------o---   to --------------oo
        sn ----o-------o---   ki o-o---o-o-o---o-   ki o---o---o---o---
        ki o-o---o-o-------
    """,
    "pop": """
        hh o-o-o-o-o-o-o-o-   hh o-o-o-o-o-o-o-o-   sn --------o-o-o-o-
        sn ----o-------o---   sn ----o-------o---   to ----------o-o-oo
        ki o-----o-o-------   ki o-----o---o-o---   ki o---o-----------
    """,
    "disco": """
        hh --o---o---o---o-   hh o-o-o-o-o-o-o-o-   hh --o---o---------
        sn ----o-------o---   sn ----o-------o-o-   sn ----o---oooooooo
        ki o---o---o---o---   ki o---o---o---o---   ki o---o---o---o---
    """,
    "funk": """
        hh oooooooooooooooo   hh oooooooooooooooo   sn ----o--o-o--o-oo
        sn ----o--o-o--o---   sn ----o--o-o-oo--o   to ------------oo--
        ki o-o-------o--o--   ki o-o---o---o-----   ki o-o-------o-----
    """,
    "soul": """
        hh o-o-o-o-o-o-o-o-   hh o-o-o-o-o-o-o-o-   sn o---o---o---o-oo
        sn o---o---o---o---   sn o---o---o---o--o   to --------------oo
        ki o-----o-o-----o-   ki o-----oo--o-----   ki o-------o-------
    """,
    "hip_hop": """
        hh o-o-o-o-o-o-o-o-   hh o-o-o-ooo-o-o-o-   hh o-o-o-o---------
        sn ----o-------o---   sn ----o-------o---   sn ----o-----o-o-oo
        ki o------o-o------   ki o--o---o--o----o   ki o------o--------
    """,
    "breakbeat": """
        hh o-o-o-o-o-o-o-o-   hh o-o-o-o-o-o-o-o-   sn ----o--o-o--oooo
        sn ----o--o-o--o--o   sn ----o--o-o----o-   ki o-o-------o-----
        ki o-o-------oo----   ki --o-------o-----   cr ---------------o
    """,
    "reggae": """
        hh o-o-o-o-o-o-o-o-   hh o-oo-oo-o-oo-oo-   sn o--o--o-o-o-----
        sn --------o-------   sn --------o-----o-   to ----------oo--oo
        ki --------o-------   ki --------o-------   ki --------o-------
    """,
    "ska": """
        hh --o---o---o---o-   hh --o---o---o---o-   sn ----o---o-o-o-o-
        sn ----o-------o---   sn ----o-------oo--   to --------------oo
        ki o-------o-------   ki o-------o-o-----   ki o---------------
    """,
    "bossa_nova": """
        hh o-o-o-o-o-o-o-o-   ri o-o-o-o-o-o-o-o-   hh o-o-o-o---------
        sn o--o--o---o--o--   sn --o---o--o--o---   sn o--o--o-----oo--
        ki o--oo--oo--oo--o   ki o--oo--oo--oo--o   to ----------oo--oo
    """,
    "samba": """
        hh o-ooo-ooo-ooo-oo   ri o-ooo-ooo-ooo-oo   sn o-oo-o-o--------
        sn --o--o-o-oo-o-o-   sn -o-o-oo-o-o-oo-o   to --------oo-oo-oo
        ki o--oo--oo--oo--o   ki o--oo--oo--oo--o   ki o--oo--oo--oo--o
    """,
    "cha_cha": """
        ri o---o---o---o---   ri o-o-o-o-o-o-o-o-   ri o---o---o-------
        sn ------o-------o-   sn ----o---------o-   sn ------o-oo-oo-oo
        to ------------oo--   to ------oo----oo--   to ----------------
        ki o-------o-------   ki o-----o-o-----o-   ki o---------------
    """,
    "songo": """
        ri o-o-o-o-o-o-o-o-   ri o-o-o-o-o-o-o-o-   sn ----o--o--o-----
        sn ----o--o--o----o   sn --o-o--o--o-o---   to ------------o-oo
        ki ---o--o----o--o-   ki ---o--o----o--o-   ki ---o--o---------
    """,
    "swing": """
        ri o---o--oo---o--o   ri o---o--oo--oo---   ri o---o---o-------
        hh ----o-------o---   hh ----o-------o---   sn ----o--o---o---o
        ki o-------o-------   sn -------o-------o   to -------------o--
    """,
    "shuffle": """
        hh o--oo--oo--oo--o   ri o--oo--oo--oo--o   sn o--oo--o--------
        sn ----o-------o---   sn ----o-------o--o   to --------o--oo--o
        ki o-------o--o----   ki o--o----o-------   ki o---o---o---o---
    """,
    "train": """
        sn oooooooooooooooo   sn o-ooo-ooo-ooo-oo   sn oooooooooooo----
        hh ----o-------o---   hh --o---o---o---o-   to ------------oooo
        ki o-------o-------   ki o---o---o---o---   ki o-------o-------
    """,
    "punk": """
        hh o-o-o-o-o-o-o-o-   ri o-o-o-o-o-o-o-o-   sn o-o-o-o-o-o-oooo
        sn --o---o---o---o-   sn --o---o---o---o-   cr o---------------
        ki o---o---o---o---   ki o---oo--o---oo--   ki o---o---o---o---
    """,
    "half_time": """
        hh o-o-o-o-o-o-o-o-   hh o-o-o-o-o-o-o-o-   sn --------o---o-oo
        sn --------o-------   sn --------o-------   to ----------oo----
        ki o-----o---o-----   ki o--o--o---o----o   ki o-----o---------
    """,
    "new_orleans": """
        sn o--o-o-oo-oo-o-o   sn o--o-o-oo-o-o-oo   sn o--o--o---o-o---
        hh ----o-------o---   hh --o---o---o---o-   to ------------oo-o
        ki o-----o---o-----   ki o--o--o---o-----   ki o-------o-------
    """,
    "metal": """
        cr o---o---o---o---   hh o---o---o---o---   sn oooo------------
        sn ----o-------o---   sn ----o-------o---   to ----oooooooo----
        ki oooooooooooooooo   ki o-ooo-ooo-ooo-oo   ki o-o-o-o-o-o-oooo
    """,
}


@dataclasses.dataclass(frozen=True)
class StyleBars:
    """One style: a bar, its variant and a fill, bool [16, 6] each."""

    name: str
    bar: np.ndarray
    variant: np.ndarray
    fill: np.ndarray


def style_names() -> list[str]:
    """Names of the styles."""
    return list(_BARS)


def style_bars(name: str) -> StyleBars:
    """The bars of a style. Raises: InvalidInputError for an unknown one."""
    if name not in _BARS:
        raise InvalidInputError(f"there is no style {name!r}; there are: {', '.join(_BARS)}")
    bars = np.zeros((3, MEASURE, WIDTH), bool)
    for line in _BARS[name].strip().splitlines():
        cells = [cell.split() for cell in line.strip().split("   ")]
        # A row that only the first bar has stands alone on its line.
        for bar, (drum, steps) in enumerate(cells):
            bars[bar, :, COLUMNS.index(_NAMES[drum])] = [c == HIT for c in steps]
    return StyleBars(name, *bars)


def groove(name: str, num_bars: int = 8, *, seed: int = 0, variety: float = 0.0) -> Groove:
    """A piece in a style: phrases of four bars, the last one often a fill, a crash behind it.

    Args:
      variety: chance of a small change in a bar (a ghost note, a kick more or less); 0 for none.
    """
    require(num_bars >= 1, f"num_bars must be at least 1, got {num_bars}")
    style, rng = style_bars(name), np.random.default_rng([seed, _BARS_ORDER[name]])
    bars, after_fill = [], False
    for number in range(num_bars):
        is_fill = number % 4 == 3 and (number % 8 == 7 or rng.random() < 0.5)
        shape = style.fill if is_fill else style.variant if number % 4 == 2 else style.bar
        bar = shape.copy()
        if after_fill:
            bar[0, COLUMNS.index("crash")] = True
        if not is_fill and rng.random() < variety:
            column = COLUMNS.index(rng.choice(["snare", "kick", "hi-hat"]))
            step = rng.integers(1, MEASURE)
            bar[step, column] = not bar[step, column]
        bars.append(bar)
        after_fill = is_fill
    return Groove(np.concatenate(bars))


def library_rows(
    num_pieces: int, *, seed: int = 0, num_bars: int = 16, variety: float = 0.3
) -> list[Row]:
    """Prompts and completions of pieces in all styles in turn; the same seed gives the same."""
    rows = []
    for number in range(num_pieces):
        name = style_names()[number % len(_BARS)]
        piece = groove(name, num_bars, seed=seed * 100_003 + number, variety=variety)
        lines = piece.text.splitlines(keepends=True)
        rows.append(make_row(lines, f"{name}_{number}", min_lines=2 * MEASURE))
    return rows


_BARS_ORDER = {name: i for i, name in enumerate(_BARS)}
