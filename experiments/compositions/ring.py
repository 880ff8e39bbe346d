"""What the compositions with DACFL share: users on a ring, and how they end."""

from collections.abc import Mapping, Sequence

from lab.papers import dacfl
from lab.report import Measurement, Table


def ring(num_users: int) -> dacfl.Network:
    """A ring of users, the same in every round."""
    config = dacfl.NetworkConfig(dacfl.TopologyConfig("ring"))
    return dacfl.draw_network(config, num_users, 0, 1)


def users_table(
    title: str,
    done: dacfl.Simulated,
    metric: str,
    says: str,
    *,
    is_loss: bool,
    others: Sequence[tuple] = (),
) -> Table:
    """The models that the users end with: their scores, the worst one, how far they are apart.

    Args: metric, of `evaluate`, `says` what it is; others, rows (name, score) for comparison.
    """
    rows = [(*row, None, None) for row in others]
    for name, history in done.history.items():
        readout = "x" if done.states[name].tracker is not None else "omega"
        scores = history[f"{metric}_{readout}"][-1]
        worst = scores.max() if is_loss else scores.min()
        apart = history[f"consensus_{readout}"][-1]
        rows.append((name, Measurement.of(scores), float(worst), float(apart)))
    return Table(title, ("trained as", says, "worst user's", "distance of the models"), rows)


def of_users(done: dacfl.Simulated, name: str) -> Mapping:
    """The models [N, ...] that the users of an algorithm end with."""
    state = done.states[name]
    return state.omega if state.tracker is None else state.tracker
