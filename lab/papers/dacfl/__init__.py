"""DACFL: decentralised federated learning by dynamic average consensus (Chen et al., 2022).

graphs                      `draw_adjacency`, `TOPOLOGIES` (topology.py)
W, sigma (sec. 4.1)         `draw_matrix`, `spectrum`, `check_mixing` (mixing.py)
network over the rounds     `draw_network`, `network_of`, `matrix_at` (network.py)
lost links, absent users    `FailureConfig`, `repair`, `leave`, `join` (failures.py)
FODAC (sec. 3)              `fodac`, `tracking_bound` (C7), `noise_gain` (C8) (consensus.py)
DACFL and its rivals        `make_round` (rounds.py), `algorithm` (algorithms.py):
  omega' = h_E, h_0 = W omega;  x' = W x + omega' - omega
mixing on one device or many  `choose_mix` (gossip.py), `UserAxis` (users.py)
who holds what              `draw_partition` (partition.py), `federated_data` (data.py)
whole runs in one call      `simulate`, `Simulation` (simulation.py), `Protocol` (periods.py)
Average, Var of Acc         `accuracy_summary` (metrics.py)
numbers sent                `numbers_moved` (communication.py), `CompressionConfig`
"""

from lab.papers.dacfl.algorithms import NAMES as ALGORITHMS
from lab.papers.dacfl.algorithms import Algorithm, algorithm
from lab.papers.dacfl.communication import closing, links_in_use, numbers_moved, per_round
from lab.papers.dacfl.compression import CompressionConfig, message_numbers
from lab.papers.dacfl.consensus import (
    fodac,
    mode_response,
    neighbour_average,
    noise_gain,
    static_consensus,
    tracking_bound,
    tracking_error,
)
from lab.papers.dacfl.convert import export_models, import_models, user_model
from lab.papers.dacfl.data import FederatedData, federated_data, image_set, stack_copies
from lab.papers.dacfl.failures import FailureConfig, join, leave, repair
from lab.papers.dacfl.files import (
    edges_to_adjacency,
    graph_to_adjacency,
    read_adjacency,
    read_mixing,
    read_partition,
)
from lab.papers.dacfl.gossip import choose_mix
from lab.papers.dacfl.losses import classification_loss
from lab.papers.dacfl.metrics import accuracy_summary, class_accuracy, user_accuracy
from lab.papers.dacfl.mixing import (
    MixingConfig,
    Spectrum,
    check_mixing,
    draw_matrix,
    sigma_of,
    spectrum,
    to_float32,
)
from lab.papers.dacfl.models import MODELS, build
from lab.papers.dacfl.network import (
    Network,
    NetworkConfig,
    adjacency_at,
    draw_network,
    matrix_at,
    network_of,
    repaired_matrices,
)
from lab.papers.dacfl.partition import (
    PartitionConfig,
    check_partition,
    draw_partition,
    label_histogram,
)
from lab.papers.dacfl.periods import Protocol, accuracy_evaluation, loss_evaluation
from lab.papers.dacfl.rounds import (
    RoundInputs,
    init_state,
    make_round,
    output_models,
    start_tracking,
)
from lab.papers.dacfl.schedules import LearningRate, learning_rate_at
from lab.papers.dacfl.simulation import Simulated, Simulation, simulate
from lab.papers.dacfl.state import FederatedState, mean_model
from lab.papers.dacfl.topology import (
    TOPOLOGIES,
    TopologyConfig,
    check_adjacency,
    components,
    draw_adjacency,
)
from lab.papers.dacfl.users import UserAxis

__all__ = [
    "ALGORITHMS",
    "MODELS",
    "TOPOLOGIES",
    "Algorithm",
    "CompressionConfig",
    "FailureConfig",
    "FederatedData",
    "FederatedState",
    "LearningRate",
    "MixingConfig",
    "Network",
    "NetworkConfig",
    "PartitionConfig",
    "Protocol",
    "RoundInputs",
    "Simulated",
    "Simulation",
    "Spectrum",
    "TopologyConfig",
    "UserAxis",
    "accuracy_evaluation",
    "accuracy_summary",
    "adjacency_at",
    "algorithm",
    "build",
    "check_adjacency",
    "check_mixing",
    "check_partition",
    "choose_mix",
    "class_accuracy",
    "classification_loss",
    "closing",
    "components",
    "draw_adjacency",
    "draw_matrix",
    "draw_network",
    "draw_partition",
    "edges_to_adjacency",
    "export_models",
    "federated_data",
    "fodac",
    "graph_to_adjacency",
    "image_set",
    "import_models",
    "init_state",
    "join",
    "label_histogram",
    "learning_rate_at",
    "leave",
    "links_in_use",
    "loss_evaluation",
    "make_round",
    "matrix_at",
    "mean_model",
    "message_numbers",
    "mode_response",
    "neighbour_average",
    "network_of",
    "noise_gain",
    "numbers_moved",
    "output_models",
    "per_round",
    "read_adjacency",
    "read_mixing",
    "read_partition",
    "repair",
    "repaired_matrices",
    "sigma_of",
    "simulate",
    "spectrum",
    "stack_copies",
    "start_tracking",
    "static_consensus",
    "to_float32",
    "tracking_bound",
    "tracking_error",
    "user_accuracy",
    "user_model",
]
