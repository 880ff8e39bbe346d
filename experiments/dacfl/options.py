"""What can be set of networks, data, failures, messages and algorithms, group by group.

Plain values only, so that --help is quick; `cells` makes the library's configurations of them.
"""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Graph:
    """Details of the networks; `networks` says which ones are run."""

    psi: float = 0.5
    """Density of the sparse networks."""
    probability: float = 0.3
    """Of an edge (erdos_renyi), or of rewiring one (watts_strogatz)."""
    degree: int = 4
    """Lattice neighbours of watts_strogatz."""
    rows: int = 0
    """Of torus; 0 takes the divisor nearest below the square root."""
    mixing: str = "metropolis"
    """Weights of the links: one of lab.papers.dacfl.mixing.METHODS."""
    eps: float | None = None
    """Step of the weights `laplacian`."""
    ensure: str = "connected"
    """Random graphs are redrawn until connected, until their union is, or never (none)."""
    union_slots: int = 10
    """Successive graphs whose union has to be connected."""
    edges_file: Path | None = None
    """A graph of your own (csv or npz; adjacency or edge list), run as the network `file`."""
    weights_file: Path | None = None
    """Mixing weights of your own (csv, or npz with key W), run as the network `file`."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Details of the partitions; `partitions` says which ones are run."""

    shards_per_user: int = 2
    """Pieces of one class a user, of `shards`."""
    alpha: float = 0.5
    """Of `dirichlet`: small is far from iid."""
    balance: bool = False
    """Of `dirichlet`: users that hold their share get no more."""
    min_size: int = 10
    """Of `dirichlet`: drawn again until every user has so many examples."""
    file: Path | None = None
    """A partition of your own (json or npz of index lists), run as the partition `file`."""


@dataclasses.dataclass(frozen=True)
class Failures:
    """What goes wrong in every cell of the grid."""

    link_loss: float = 0.0
    """Chance that a link is down in a round."""
    user_loss: float = 0.0
    """Chance that a user is absent in a round."""
    mode: str = "offline"
    """Absent users stand still (offline) or train on alone (isolated)."""
    repair: str = "symmetric"
    """Links fail in both directions (symmetric), or single messages do (row_only)."""
    outages: tuple[tuple[int, int, int], ...] = ()
    """Absences: user, first round, number of rounds."""
    link_outages: tuple[tuple[int, int, int, int], ...] = ()
    """Links down: user, user, first round, number of rounds."""
    arrivals: tuple[tuple[int, int], ...] = ()
    """Late joiners: user, first round; they begin with their neighbours' mean."""


@dataclasses.dataclass(frozen=True)
class Messages:
    """How messages are compressed in every cell of the grid."""

    kind: str = "none"
    """none, top_k, random_k or quantise."""
    fraction: float = 0.1
    """Share of the entries that top_k and random_k send."""
    bits: int = 8
    """Of a quantised number."""
    step_size: float = 1.0
    """How far users move towards their neighbours' public copies; smaller is safer."""


@dataclasses.dataclass(frozen=True)
class Variants:
    """Options of the algorithms that have them."""

    dacfl_gradient_at: str = "mixed"
    """Where DACFL trains from, the mixed or the local model."""
    cdsgd_gradient_at: str = "local"
    """The same of CDSGD and D-PSGD."""
    momentum: float = 0.0
    """Heavy ball of CDSGD and D-PSGD."""
    reset_every: int = 0
    """DACFL sets x to omega after every so many rounds; 0 never."""
