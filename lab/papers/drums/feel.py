"""How drummers play a pattern: loudness and timing, measured, and given to a stiff groove.

The paper's "humanised" demos were edited by hand; this is an opt-in of ours.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lab.errors import require
from lab.papers.drums.grid import Groove
from lab.papers.drums.midi_writing import VELOCITY
from lab.papers.drums.notation import MEASURE, WIDTH


@dataclasses.dataclass(frozen=True)
class Feel:
    """Mean and spread of velocities and offsets (steps late) by place in the measure and drum.

    Every field is float [16, 6].
    """

    velocity_mean: np.ndarray
    velocity_std: np.ndarray
    offset_mean: np.ndarray
    offset_std: np.ndarray


def plain_feel(velocity_std: float = 12.0, offset_std: float = 0.08) -> Feel:
    """No measured feel: beats somewhat louder than what lies between, small Gaussian scatter."""
    place = np.arange(MEASURE)[:, None]
    accents = np.where(place % 4 == 0, 12, np.where(place % 2 == 0, 0, -14)) + np.zeros(WIDTH)
    shape = (MEASURE, WIDTH)
    return Feel(
        VELOCITY - 10 + accents,
        np.full(shape, velocity_std),
        np.zeros(shape),
        np.full(shape, offset_std),
    )


def measured_feel(grooves: Sequence[Groove], *, prior: float = 20.0) -> Feel:
    """The feel of performances in 4/4 on 16ths, places with few hits drawn to the drum's mean.

    Args: prior, how many hits of the mean each place is mixed with.
    """
    played = [g for g in grooves if g.velocities is not None and g.steps_per_bar == MEASURE]
    require(len(played) > 0, "a feel is measured on played grooves in 4/4 on 16ths, got none")
    places = np.concatenate([np.arange(len(g.hits)) % MEASURE for g in played])
    hits = np.concatenate([g.hits for g in played])
    fields = []
    for name in ("velocities", "offsets"):
        values = np.concatenate([getattr(g, name) for g in played]).astype(np.float64)
        fields += _moments(values, hits, places, prior)
    return Feel(*fields)


def _moments(values, hits, places, prior) -> list[np.ndarray]:
    count = np.maximum(hits.sum(axis=0), 1)
    means = (values * hits).sum(axis=0) / count
    spread = ((values - means) ** 2 * hits).sum(axis=0) / count
    mean, std = np.empty((MEASURE, WIDTH)), np.empty((MEASURE, WIDTH))
    for place in range(MEASURE):
        own, here = values[places == place], hits[places == place]
        weight = here.sum(axis=0) + prior
        mean[place] = ((own * here).sum(axis=0) + prior * means) / weight
        error = ((own - mean[place]) ** 2 * here).sum(axis=0)
        std[place] = np.sqrt((error + prior * spread) / weight)
    return [mean, std]


def humanise(groove: Groove, *, seed: int = 0, feel: Feel | None = None) -> Groove:
    """The groove with velocities and offsets of a feel, drawn anew for every hit.

    Args: feel, by default `plain_feel`. Offsets are clipped to half a step, velocities to 1..127.
    """
    feel, rng = feel or plain_feel(), np.random.default_rng(seed)
    # The place within the measure, whatever the grid's resolution.
    place = np.arange(len(groove.hits)) * 4 // groove.steps_per_quarter % MEASURE
    shape = groove.hits.shape
    loud = rng.normal(feel.velocity_mean[place], feel.velocity_std[place], shape)
    late = rng.normal(feel.offset_mean[place], feel.offset_std[place], shape)
    velocities = np.where(groove.hits, np.clip(np.rint(loud), 1, 127), 0).astype(np.int64)
    offsets = np.where(groove.hits, np.clip(late, -0.5, 0.5), 0.0)
    return dataclasses.replace(groove, velocities=velocities, offsets=offsets)


def feel_errors(feel: Feel, grooves: Sequence[Groove]) -> tuple[float, float]:
    """Mean absolute errors of velocity and of offset (steps) when a feel's means are played."""
    velocity, offset, count = 0.0, 0.0, 0
    for groove in grooves:
        place = np.arange(len(groove.hits)) % MEASURE
        loud = np.abs(groove.velocities - feel.velocity_mean[place])
        late = np.abs(groove.offsets - feel.offset_mean[place])
        velocity += float(loud[groove.hits].sum())
        offset += float(late[groove.hits].sum())
        count += int(groove.hits.sum())
    require(count > 0, "the grooves have no hits")
    return velocity / count, offset / count
