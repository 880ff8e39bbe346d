"""How many numbers travel: a model of d parameters to each neighbour, once or twice a round."""

import numpy as np

from lab.errors import require
from lab.papers.dacfl.algorithms import Algorithm

BYTES_PER_NUMBER = 4


def numbers_moved(
    algorithm: Algorithm, message: float, degrees: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers sent and received by each user over a whole run.

    CDSGD and D-PSGD send a model to each neighbour, DACFL and DSGT two arrays of that size, FedAvg
    one up and one down; D-PSGD ends with one all-reduce, 2 d (N - 1) / N each way. Local training
    sends nothing; the centralised one is counted as an all-reduce of the gradient a round.

    Args: message, numbers in one model's message (d, or fewer when compressed); degrees, number of
      links that are up, [T, N] (an absent user has none).
    Returns: (sent, received), float64 [N] each.
    """
    moved = per_round(algorithm, message, degrees).sum(axis=0)
    moved = moved + closing(algorithm, message, degrees.shape[1])
    return moved, moved.copy()


def per_round(algorithm: Algorithm, message: float, degrees: np.ndarray) -> np.ndarray:
    """Numbers that each user sends in each round (as many are received); float64 [T, N]."""
    degrees = np.asarray(degrees, np.float64)
    n = degrees.shape[1]
    match algorithm.name:
        case "local":
            return np.zeros_like(degrees)
        case "fedavg":
            return np.full_like(degrees, message)
        case "centralised":
            return np.full_like(degrees, 2 * message * (n - 1) / n)
        case _:
            return algorithm.messages_per_link * message * degrees


def closing(algorithm: Algorithm, message: float, num_users: int) -> float:
    """Numbers of the all-reduce with which D-PSGD ends, sent and received by each user."""
    if not algorithm.outputs_mean:
        return 0.0
    return 2 * message * (num_users - 1) / num_users


def degrees_of(adjacency: np.ndarray, rounds: int, change_every: int) -> np.ndarray:
    """Degrees [T, N] of a sequence of graphs [S, N, N], round t using slot t // change_every."""
    adjacency = np.asarray(adjacency)
    require(rounds >= 1, f"rounds must be at least 1, got {rounds}")
    require(change_every >= 1, f"change_every must be at least 1, got {change_every}")
    slots = np.arange(rounds) // change_every % len(adjacency)
    return adjacency.sum(axis=-1)[slots]


def links_in_use(matrices: np.ndarray) -> np.ndarray:
    """Degrees [T, N] of the mixing matrices [T, N, N] that a run used, failures included."""
    off_diagonal = ~np.eye(matrices.shape[-1], dtype=bool)
    return ((matrices != 0) & off_diagonal).sum(axis=-1)
