"""RELIANT: fair knowledge distillation for graph networks.

    python -m experiments.reliant                     # a generated graph, about a minute
    python -m experiments.reliant bench               # Recidivism and Credit, reduced
    python -m experiments.reliant bench --datasets bail --frameworks cpf --knobs.feat-drop 0.5

The science is in `lab.papers.reliant`; here are presets, the order of things, claims and pictures.
"""

import dataclasses
from typing import Literal

TITLE = "Fair distillation of graph networks (RELIANT)"
SUMMARY = (
    "Distils a graph network's teacher into a student that treats two groups alike, by a penalty "
    "on its predictions and a learned proxy that takes up the bias."
)
NEEDS = {"bench": ("bail", "credit"), "paper": ("bail", "credit")}


@dataclasses.dataclass(frozen=True)
class Knobs:
    """Options of the students; None leaves what the settings of the data set say."""

    alpha: float | None = None
    """Weight of the bias in the student's loss."""
    proxy_dim: int | None = None
    """Width of the learned proxy."""
    proxy_input: Literal["append", "replace_last_two"] | None = None
    """Where the proxy goes."""
    proxy_at_test: Literal["final", "best", "mean_init"] | None = None
    """Whose mean every node gets at test time."""
    penalise_sensitive: bool | None = None
    """Penalty with the true attribute as proxy; None: with CPF only, as released."""
    step_approx: Literal["official", "legendre", "identity", "sigmoid"] | None = None
    """Surrogate of the step function."""
    steepness: float | None = None
    """Of the surrogate sigmoid."""
    eo_labels: Literal["official", "train_only", "teacher_pseudo"] | None = None
    """Labels that equal opportunity looks at; official uses those of test nodes."""
    fairness_nodes: Literal["official", "train", "non_train", "all"] | None = None
    """Nodes over which groups are compared."""
    num_layers: int | None = None
    """CPF: one more than the number of propagations."""
    emb_dim: int | None = None
    """CPF: width of the feature branch."""
    mlp_layers: int | None = None
    """CPF: layers of the feature branch."""
    feat_drop: float | None = None
    """CPF: dropout of features."""
    attn_drop: float | None = None
    """CPF: dropout of attention."""
    ptype: Literal["ind", "tra"] | None = None
    """CPF: source scores from features, or a number of each node."""
    kd_loss: Literal["l2", "bce", "kl"] | None = None
    """CPF: distance to the teacher."""
    round_teacher: int | None = None
    """CPF: decimals of the teacher's probabilities (4 as released); -1 for no rounding."""
    hidden_dim: int | None = None
    """GraphAKD: width of the student."""
    powers: tuple[int, int, int] | None = None
    """GraphAKD: how often each layer of the student propagates."""
    dropout_rate: float | None = None
    """GraphAKD: dropout of the student."""
    akd_g_loss: Literal["official", "fixed"] | None = None
    """GraphAKD: the released loss, or without its fault."""
    d_critic: int | None = None
    """GraphAKD: epochs between two steps of the discriminators."""
    g_critic: int | None = None
    """GraphAKD: epochs between two steps of the student."""
    project_embedding: bool | None = None
    """GraphAKD: a linear map between embeddings of different widths."""
    noisy_eval: bool | None = None
    """Evaluate with dropout, as the released GraphAKD does."""
    temperature: float | None = None
    """Of plain distillation."""
    label_weight: float | None = None
    """Of plain distillation: share of the labels' loss."""
    learning_rate: float | None = None
    """The student's."""
    proxy_learning_rate: float | None = None
    """The proxy's."""
    critic_learning_rate: float | None = None
    """The discriminators'."""
    weight_decay: float | None = None
    """L2 added to every player's gradient."""
    max_epochs: int | None = None
    """Epochs of a student."""
    patience: int | None = None
    """Epochs in a row without a best before a student stops."""
    select_by: Literal["val_accuracy", "val_loss", "fair", "last"] | None = None
    """Which epoch is kept."""
    min_accuracy: float | None = None
    """Of select_by fair."""
    min_auc: float | None = None
    """Of select_by fair."""


@dataclasses.dataclass(frozen=True)
class TeacherKnobs:
    """Options of the teachers; None leaves what the released code has."""

    num_layers: int | None = None
    """Layers (not of sgc)."""
    hidden_dim: int | None = None
    """Width."""
    dropout_rate: float | None = None
    """Dropout."""
    learning_rate: float | None = None
    """Adam's."""
    weight_decay: float | None = None
    """L2 added to the gradient."""
    patience: int | None = None
    """Epochs in a row with a lower validation accuracy before a teacher stops."""
    select_by: Literal["val_accuracy", "val_loss", "last"] | None = None
    """Which epoch is kept; last on the reduced Credit, else val_accuracy."""
    gat_heads: int | None = None
    """Of gat."""
    appnp_alpha: float | None = None
    """Of appnp: share of the start in each step."""
    appnp_steps: int | None = None
    """Of appnp."""
    sgc_power: int | None = None
    """Of sgc."""
    gcnii_alpha: float | None = None
    """Of gcnii."""
    gcnii_lambda: float | None = None
    """Of gcnii."""
    monet_kernels: int | None = None
    """Of monet."""


@dataclasses.dataclass(frozen=True)
class PeerKnobs:
    """Options of what RELIANT is compared with; None leaves what its authors chose."""

    cov_weight: float | None = None
    """FairGNN: weight of the covariance."""
    adv_weight: float | None = None
    """FairGNN: weight of the adversary."""
    sim_weight: float | None = None
    """NIFTY: weight of the similarity of both views."""
    edge_drop: float | None = None
    """NIFTY: share of edges that a view drops."""
    feature_noise: float | None = None
    """NIFTY: share of columns that a view shifts."""
    learning_rate: float | None = None
    """Of both."""
    weight_decay: float | None = None
    """Of both."""
    max_epochs: int | None = None
    """Of both."""
    dropped_edges: float = 0.5
    """Pre-processing: share of edges that go."""
    dropped_between: Literal["different", "same", "all"] = "different"
    """Pre-processing: between which groups they go."""
    masked_columns: int = 3
    """Pre-processing: columns most correlated with the attribute that are zeroed."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Teachers, students of both frameworks with and without RELIANT, ablations, peers."""

    datasets: tuple[str, ...] = ("bail", "credit")
    """credit, bail, german, nba, dblp_small (synthetic features), or generated."""
    mini: bool = True
    """The induced subgraphs of 4,000 and 6,000 nodes (bail and credit)."""
    split: Literal["paper", "nifty"] = "paper"
    """Train, validation and test nodes: of the paper, or of NIFTY (few labels; not for nba)."""
    features: Literal["official", "raw", "l1", "binary", "z", "minmax"] = "official"
    """What becomes of the raw columns."""
    drop_sensitive: bool = False
    """Take the sensitive column out of the features."""
    settings: Literal["mini", "released"] = "mini"
    """Hyper-parameters: of the reduced runs, or of the released code."""
    teachers: tuple[str, ...] = ("gcn", "sage")
    """gcn, sage, gat, appnp, sgc, gcnii, monet. The first has every method."""
    extended: tuple[str, ...] = ("bail",)
    """Data sets that also have the other teachers, peers and partly known groups."""
    teacher_epochs: int = 1000
    """Longest training of a teacher."""
    teacher: TeacherKnobs = dataclasses.field(default_factory=TeacherKnobs)
    """Options of the teachers."""
    teacher_seed: int = 42
    """Seed of the teachers; one teacher serves all students."""
    frameworks: tuple[str, ...] = ("akd", "cpf")
    """akd (GraphAKD), cpf (label propagation)."""
    metrics: tuple[str, ...] = ("sp", "eo")
    """Notions of fairness that students are trained for: sp, eo, both."""
    proxy_modes: tuple[str, ...] = ("learned", "sensitive", "none")
    """Proxies that are compared, with the first teacher; none is the penalty alone."""
    sweeps: tuple[str, ...] = ("bail/akd", "bail/cpf")
    """Data set / framework whose whole trade-off curve is run."""
    alphas: tuple[float, ...] = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 1e3, 1e4)
    """Weights of the bias on the curves; CPF's are a hundred times these."""
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)
    """Seeds of the students."""
    peers: bool = True
    """FairGNN, NIFTY, plain distillation, students without a teacher, pre-processing."""
    peer: PeerKnobs = dataclasses.field(default_factory=PeerKnobs)
    """Options of the peers."""
    known_shares: tuple[float, ...] = (0.5, 0.1)
    """Shares of nodes with a known sensitive attribute."""
    knobs: Knobs = dataclasses.field(default_factory=Knobs)
    """Options of the students."""
    checkpoint_epochs: int = 200
    """Epochs between two checkpoints of a student's run."""


PRESETS = {
    "quick": Config(
        datasets=("generated",),
        teachers=("gcn",),
        teacher_epochs=200,
        frameworks=("akd", "cpf"),
        metrics=("sp",),
        proxy_modes=("learned", "none"),
        sweeps=("generated/akd",),
        seeds=(10, 11, 12),
        extended=(),
    ),
    "bench": Config(),
    "paper": Config(
        mini=False,
        settings="released",
        extended=("credit", "bail"),
        sweeps=("credit/akd", "bail/akd", "credit/cpf", "bail/cpf"),
    ),
}


def main(config: Config, run):
    """Runs the study and judges the claims; returns a `lab.report.Result`."""
    from experiments.reliant.report import study_result

    return study_result(config, run)


def speed_cases():
    """A 5 x 5 sweep in one call and run by run; a student of the whole Recidivism graph."""
    from experiments.reliant.speed import cases

    return cases()
