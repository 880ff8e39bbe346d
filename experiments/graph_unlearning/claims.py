"""The paper's claims, each judged by what was measured."""

import numpy as np

from lab.report import Claim, Measurement

# Micro-F1 of training from scratch as a third party read it off the paper's tables.
CORA_SCRATCH = {
    "sage": ".824 ± .004",
    "gcn": ".739 ± .003",
    "gat": ".823 ± .006",
    "gin": ".801 ± .018",
    "mlp": ".657 ± .019",
}
CITESEER = {
    "gat": "GAT .746 ± .006",
    "gin": "GIN .739 ± .020",
    "sage": "SAGE .716 ± .007",
    "gcn": "GCN .493 ± .006",
}
GNNS = ("gcn", "gat", "gin", "sage")


def all_claims(config, found, *, preset: str) -> list[Claim]:
    """Rows C1 to C9 of the spec."""
    return [
        *speed_claims(config, found),
        *partition_claims(config, found),
        *scratch_claims(config, found, preset),
        kept_edges_claim(config, found),
        *trend_claims(config, found),
        *attack_claims(found),
        lbaggr_nodes_claim(found),
    ]


def _f1(found, name, model, method, aggregator="mean") -> np.ndarray | None:
    cell = found.cells.get((name, model, method))
    return None if cell is None else np.array(cell["f1"][aggregator])


def speed_claims(config, found) -> list[Claim]:
    """C1."""
    name, model = config.datasets[0], config.models[0]
    times = found.times[name, model]
    per_shard = times["scratch"] / np.array(times["shard_seconds"])
    claims = [
        Claim(
            "C1",
            f"unlearning a request is much faster than retraining ({name}, {model})",
            "2.06x (small data set) to 35.94x (large)",
            Measurement.of(times["scratch"] / times["request"], "x"),
            holds=lambda m: m.mean > 2.0,
            note=f"over single shards {per_shard.min():.1f}x to {per_shard.max():.1f}x; warm",
        )
    ]
    by_size = [(n, found.times[n, model]) for n in config.datasets if (n, model) in found.times]
    ratios = {n: t["scratch"] / t["request"] for n, t in by_size}
    largest = max(ratios, key=lambda n: found.cells[n, model, "scratch"]["shard_sizes"][0][0])
    claims.append(
        Claim(
            "C1-size",
            "the ratio grows with the graph: largest data set over the first",
            "35.94x over 2.06x",
            Measurement.of(ratios[largest] / ratios[name], "x") if len(ratios) > 1 else None,
            holds=lambda m: m.mean > 1.0,
            note=", ".join(f"{n} {r:.1f}x" for n, r in ratios.items()),
        )
    )
    rows = found.sweeps["num_shards"]
    growth = [rows[0]["seconds"] / row["seconds"] for row in rows]
    claims.append(
        Claim(
            "C1-shards",
            f"the ratio grows with S (S={rows[-1]['num_shards']} over S={rows[0]['num_shards']})",
            "not available",
            Measurement.of(growth[-1], "x"),
            holds=lambda m: m.mean > 1.0,
        )
    )
    return claims


def partition_claims(config, found) -> list[Claim]:
    """C2, C3."""
    name, model = config.datasets[0], config.models[0]
    pairs = {
        "C2": (
            f"BLPA keeps more utility than a random partition ({name}, {model}, mean)",
            "up to 62.5% higher F1",
            ("blpa", "mean"),
            ("random", "mean"),
            1.3,
        ),
        "C3": (
            f"LBAggr beats the majority vote ({name}, {model}, BLPA)",
            "up to 112% higher F1",
            ("blpa", "lbaggr"),
            ("blpa", "majority"),
            1.4,
        ),
    }
    claims = []
    for claim_id, (statement, paper, better, worse, bar) in pairs.items():
        high, low = _f1(found, name, model, *better), _f1(found, name, model, *worse)
        measured = None if high is None or low is None else Measurement.of(high / low, "x")
        claims.append(
            Claim(claim_id, statement, paper, measured, holds=lambda m, bar=bar: m.mean >= bar)
        )
    return claims


def scratch_claims(config, found, preset) -> list[Claim]:
    """C4, C5."""
    name = config.datasets[0]
    gnns = [m for m in GNNS if (name, m, "scratch") in found.cells]
    lead = None
    if gnns and (name, "mlp", "scratch") in found.cells:
        weakest = min(_f1(found, name, m, "scratch").mean() for m in gnns)
        lead = Measurement.of(weakest - _f1(found, name, "mlp", "scratch").mean())
    claims = [
        Claim(
            "C4",
            f"every GNN from scratch beats the features alone ({name}, weakest GNN minus MLP)",
            ".739 - .657 = .082 (Cora)",
            lead,
            holds=lambda m: m.mean > 0.0,
        )
    ]
    for model, paper in CORA_SCRATCH.items():
        value = _f1(found, "cora", model, "scratch")
        measured = None if value is None else Measurement.of(value)
        claims.append(Claim(f"C4-{model}", f"F1 from scratch, {model}, Cora", paper, measured))
    for model, paper in CITESEER.items():
        value = _f1(found, "citeseer", model, "scratch")
        measured = None if value is None else Measurement.of(value)
        note = "the column that the paper's value stands in could not be read"
        claims.append(
            Claim(f"C5-{model}", f"F1 from scratch, {model}, Citeseer", paper, measured, note=note)
        )
    best = {"blpa": "best BLPA .676 ± .004", "bekm": "best BEKM .746 ± .006"}
    for method, paper in best.items():
        scores = [
            (np.mean(values), values)
            for (dataset, _, m), cell in found.cells.items()
            if dataset == "citeseer" and m == method
            for values in cell["f1"].values()
        ]
        measured = Measurement.of(max(scores)[1]) if scores else None
        claims.append(
            Claim(f"C5-{method}", f"best F1 with {method.upper()}, Citeseer", paper, measured)
        )
    return claims


def kept_edges_claim(config, found) -> Claim:
    """C6."""
    name = config.datasets[0]
    losses = {
        m: 1 - _f1(found, name, m, "random").mean() / _f1(found, name, m, "scratch").mean()
        for m in config.models
        if (name, m, "random") in found.cells
    }
    others = [loss for m, loss in losses.items() if m != "gcn"]
    measured = None
    if "gcn" in losses and others:
        measured = Measurement.of(losses["gcn"] - max(others))
    return Claim(
        "C6",
        "a random partition hurts GCN most: its relative loss of F1 minus the next largest",
        "not available",
        measured,
        holds=lambda m: m.mean > 0,
        note=", ".join(f"{m} loses {loss:.0%}" for m, loss in losses.items()),
    )


def trend_claims(config, found) -> list[Claim]:
    """C7: rank agreement with the claimed trend, 1 if monotone."""
    rows = found.sweeps["num_shards"]
    shards = [row["num_shards"] for row in rows]
    trends = {
        "C7-time": ("more shards: faster unlearning", [-row["seconds"] for row in rows]),
        "C7-f1": ("more shards: lower F1 (mean)", [-np.mean(r["f1"]["mean"]) for r in rows]),
    }
    claims = []
    for claim_id, (statement, values) in trends.items():
        steps = np.sign(np.diff(values))
        claims.append(
            Claim(
                claim_id,
                f"{statement}; share of steps that follow, S in {shards}",
                "a figure, not read",
                Measurement.of(float((steps > 0).mean())),
                holds=lambda m: m.mean == 1.0,
            )
        )
    return claims


def attack_claims(found) -> list[Claim]:
    """C8: no number verified, so reported only."""
    attack, claims = found.sweeps["attack"], []
    names = {"after": "before against after", "again": "before against a new partition"}
    for key, words in names.items():
        low, high = attack[key]["interval"]
        claims.append(
            Claim(
                f"C8-{key}",
                f"membership inference is near chance: AUC, {words}, {attack['num']} nodes",
                "about 0.5, not verified",
                Measurement.of(attack[key]["auc"]),
                note=f"95% bootstrap interval {low:.2f} to {high:.2f}",
            )
        )
    return claims


def lbaggr_nodes_claim(found) -> Claim:
    """C9."""
    means = [np.mean(row["f1"]) for row in found.sweeps["lbaggr_nodes"]]
    return Claim(
        "C9",
        "LBAggr needs few nodes: largest F1 minus smallest over 1000, 10% and all",
        "not available",
        Measurement.of(max(means) - min(means)),
        holds=lambda m: m.mean <= 0.03,
        note=", ".join(f"{mean:.3f}" for mean in means),
    )
