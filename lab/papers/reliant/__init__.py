"""RELIANT: fair knowledge distillation for graph networks (Dong et al., SDM 2023).

Part of the paper -> where it is.

- similarity graph of a table: `similarity.similarity_graph`; features: `features.preprocess`.
- polynomial surrogate of the step function, group bias: `losses.step_approximation`, `losses.bias`.
- proxy of bias, mean and own mode: `objective.initial_proxy`, `mean_proxy`, `with_proxy`.
- alternating optimisation: `steps.make_epoch`; whole runs: `training.train_students`.
- CPF: `models.PLP`, `losses.kd_loss`. GraphAKD: `models.SGC`, `losses.discriminator_terms`,
  `losses.generator_terms`.
- teachers: `teachers`, `training.teach`; what they pass on: `knowledge`.
- delta-SP, delta-EO: `lab.metrics.fairness`; all scores: `metrics.evaluate`.
- peers: `baselines` (FairGNN, NIFTY), `data.without_edges`, `data.mask_correlated`.
- any student with any teacher's logits: `wrapping.make_fair_step`.
"""

from lab.papers.reliant.baselines import FairGNNConfig, NIFTYConfig, train_fairgnn, train_nifty
from lab.papers.reliant.config import StudentConfig
from lab.papers.reliant.convert import from_official, to_official
from lab.papers.reliant.data import (
    FairGraph,
    crossed_groups,
    hide_sensitive,
    mask_correlated,
    prepare,
    with_features,
    without_edges,
)
from lab.papers.reliant.features import preprocess, sensitive_columns
from lab.papers.reliant.formats import from_coo_folder, from_graphs_tuple, from_table
from lab.papers.reliant.knowledge import (
    TeacherKnowledge,
    knowledge,
    load_knowledge,
    save_knowledge,
)
from lab.papers.reliant.losses import bias, kd_loss, step_approximation
from lab.papers.reliant.metrics import (
    by_group,
    changed_predictions,
    evaluate,
    evaluate_copies,
)
from lab.papers.reliant.models import PLPConfig, SGCConfig
from lab.papers.reliant.objective import (
    REG_ONLY,
    RELIANT,
    VANILLA,
    FairnessConfig,
    bias_groups,
)
from lab.papers.reliant.selection import is_dominated
from lab.papers.reliant.similarity import similarity_graph
from lab.papers.reliant.steps import init_student, make_epoch, make_task, selected_logits
from lab.papers.reliant.teachers import TeacherConfig
from lab.papers.reliant.training import predict, teach, train_students
from lab.papers.reliant.wrapping import init_fair_state, make_fair_step
from lab.train.state import seed_keys

__all__ = [
    "REG_ONLY",
    "RELIANT",
    "VANILLA",
    "FairGNNConfig",
    "FairGraph",
    "FairnessConfig",
    "NIFTYConfig",
    "PLPConfig",
    "SGCConfig",
    "StudentConfig",
    "TeacherConfig",
    "TeacherKnowledge",
    "bias",
    "bias_groups",
    "by_group",
    "changed_predictions",
    "crossed_groups",
    "evaluate",
    "evaluate_copies",
    "from_coo_folder",
    "from_graphs_tuple",
    "from_official",
    "from_table",
    "hide_sensitive",
    "init_fair_state",
    "init_student",
    "is_dominated",
    "kd_loss",
    "knowledge",
    "load_knowledge",
    "make_epoch",
    "make_fair_step",
    "make_task",
    "mask_correlated",
    "predict",
    "prepare",
    "preprocess",
    "save_knowledge",
    "seed_keys",
    "selected_logits",
    "sensitive_columns",
    "similarity_graph",
    "step_approximation",
    "teach",
    "to_official",
    "train_fairgnn",
    "train_nifty",
    "train_students",
    "with_features",
    "without_edges",
]
