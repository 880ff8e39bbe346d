"""A result with something in every field."""

from lab.report import Claim, Figure, Measurement, Result, Table


def example_result(**changes) -> Result:
    """Two claims, a table, a figure `figures/f1.png`."""
    values = {
        "title": "Graph unlearning",
        "summary": "Deletes nodes by retraining one shard.",
        "claims": [
            Claim(
                "C1", "faster", "2x", Measurement.of([3.0, 4.0], "x"), lambda m: m.mean > 2, "warm"
            ),
            Claim("C2", "grows", "35x", None),
        ],
        "tables": [Table("F1", ["method", "F1"], [["mean", Measurement.of([0.7, 0.8])]], "all")],
        "figures": [Figure("figures/f1.png", "F1 a method", "Mean beats majority.")],
        "notes": ["one shard is empty"],
        "paper": "graph_unlearning",
        "preset": "quick",
        "name": "default",
        "config": {"train": {"steps": 5}, "seeds": [0, 1]},
        "seconds": 12.5,
        "machine": "2 CPU cores",
        "commit": "abc1234",
        "date": "2026-01-02T03:04:05+00:00",
    }
    return Result(**values | changes)
