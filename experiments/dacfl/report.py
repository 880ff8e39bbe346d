"""From the study to the result: claims, tables, pictures, notes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import hosts
from experiments.dacfl import SUMMARY, TITLE, Config, fullscale
from experiments.dacfl.cells import CellResult
from experiments.dacfl.claims import all_claims, rounds_to_target
from experiments.dacfl.pictures import all_pictures
from experiments.dacfl.study import Findings, check, measure, wants_shapes_only
from lab.report import Measurement, Result, Table

# (column, algorithm, read-out); D-PSGD and the mean model are one model for all users.
READOUTS = (
    ("DACFL x", "dacfl", "x"),
    ("DACFL omega", "dacfl", "omega"),
    ("CDSGD", "cdsgd", "omega"),
    ("D-PSGD (mean)", "cdsgd", "mean"),
    ("mean of DACFL's omega", "dacfl", "mean"),
    ("DSGT", "dsgt", "omega"),
    ("FedAvg", "fedavg", "omega"),
    ("D-PSGD", "dpsgd", "mean"),
    ("DFedAvg", "dfedavg", "omega"),
    ("exact diffusion", "exact_diffusion", "omega"),
    ("local only", "local", "omega"),
    ("centralised", "centralised", "omega"),
)
ONE_MODEL = ("fedavg", "centralised")  # all users hold the same
EQUAL_BYTES = ("dacfl", "cdsgd", "dsgt", "fedavg")


def study_result(config: Config, run: Any) -> Result:
    """Measures everything (what a killed run had measured is kept), then judges it."""
    check(config)
    hosts.wait_for_all()
    if wants_shapes_only(config):
        return fullscale.shapes_result(config, run)
    findings = measure(config, run)
    # The first process shows what all have measured.
    figures = all_pictures(config, findings, run) if hosts.is_first() else []
    return Result(
        TITLE,
        SUMMARY,
        claims=all_claims(config, findings),
        tables=all_tables(config, findings),
        figures=figures,
        notes=notes(config),
    )


def readouts_of(results: Mapping[object, CellResult]) -> list[tuple[str, str, str]]:
    """The read-outs that at least one of the cells has."""
    return [
        row
        for row in READOUTS
        if any(f"{row[1]}/final_{row[2]}" in result for result in results.values())
    ]


def all_tables(config: Config, findings: Findings) -> list[Table]:
    """Every table for which there are measurements."""
    tables = []
    if findings.grid:
        rows = {" ".join(key): result for key, result in findings.grid.items()}
        title = f"Average of Acc, % (Var of Acc, percent²), {_setting(config)}"
        tables += [_scores(title, rows), _worst("Accuracy of the worst user, %", rows)]
    regimes = findings.regimes | _cifar(config, findings)
    if regimes:
        first = config.datasets[0]
        title = f"Other regimes, shards sparse, {first} unless said, Average of Acc, % (Var of Acc)"
        tables += [_scores(title, regimes), _worst("Worst user in these regimes, %", regimes)]
    if findings.links:
        title = "Lost links: chance in each round, Average of Acc, % (Var of Acc, percent²)"
        rows = {f"p = {p:g}": result for p, result in findings.links.items()}
        rows |= {"one user absent": findings.outage} if findings.outage else {}
        tables.append(_scores(title, rows))
    if findings.ablations:
        tables.append(_ablations(findings))
    if findings.rates or findings.sizes:
        tables.append(_speeds(config, findings))
    tables += _bytes_table(config, findings)
    return tables


def notes(config: Config) -> list[str]:
    """What a reader must know of the numbers."""
    del config
    return [
        "The paper's own tables could not be read: its values are 'not available', and the "
        "verdicts follow from its abstract or from what can be proved.",
        "Average and Var of Acc are those of the last round on the whole test set; one round's "
        "variance is noisy, so claims about it use the mean of the last five evaluations.",
        "Sending compressed models is no part of the paper; here it is an option.",
    ]


def _setting(config: Config) -> str:
    return (
        f"{config.num_users} users, {config.model}, B = {config.batch_size}, "
        f"lr {config.learning_rate:g}, T = {config.num_rounds}"
    )


def _cifar(config: Config, findings: Findings) -> dict[str, CellResult]:
    cifar = config.cifar
    title = f"CIFAR-10, {cifar.model}, {cifar.num_train:,} images, T = {cifar.num_rounds}"
    return {title: findings.cifar} if findings.cifar else {}


def _scores(title: str, rows: Mapping[str, CellResult]) -> Table:
    columns = readouts_of(rows)
    lines = [
        [name, *(_score(result, algorithm, readout) for _, algorithm, readout in columns)]
        for name, result in rows.items()
    ]
    return Table(title, ["", *(column for column, _, _ in columns)], lines)


def _score(result: CellResult, algorithm: str, readout: str) -> str | None:
    if f"{algorithm}/final_{readout}" not in result:
        return None
    average = result.average(algorithm, readout)
    spread = f" ± {average.std(ddof=1):.1f}" if len(average) > 1 else ""
    if readout == "mean" or algorithm in ONE_MODEL:
        return f"{average.mean():.1f}{spread}"
    variance = result.variance(algorithm, readout).mean()
    return f"{average.mean():.1f}{spread} ({0 if variance < 1e-3 else variance:.2g})"


def _worst(title: str, rows: Mapping[str, CellResult]) -> Table:
    columns = [row for row in readouts_of(rows) if row[2] != "mean" and row[1] not in ONE_MODEL]
    lines = []
    for name, result in rows.items():
        cells = [
            Measurement.of(result.worst(algorithm, readout))
            if f"{algorithm}/final_{readout}" in result
            else None
            for _, algorithm, readout in columns
        ]
        lines.append([name, *cells])
    return Table(title, ["", *(column for column, _, _ in columns)], lines)


def _ablations(findings: Findings) -> Table:
    lines = [
        [
            title,
            Measurement.of(result.average(algorithm, readout)),
            Measurement.of(result.late_variance(algorithm, readout)),
            Measurement.of(result.worst(algorithm, readout)),
        ]
        for title, (algorithm, readout, result) in findings.ablations.items()
    ]
    columns = ["one thing changed", "Average of Acc, %", "Var of Acc, percent²", "worst user, %"]
    return Table("Ablations", columns, lines, "Var of Acc: mean of the last five evaluations.")


def _speeds(config: Config, findings: Findings) -> Table:
    lines = []
    if findings.rates:
        rounds = rounds_to_target(findings.rates).reshape(len(config.extras.rates), -1)
        for rate, row in zip(config.extras.rates, rounds, strict=True):
            lines.append([f"lr {rate:g}, N = {config.num_users}", Measurement.of(row)])
    for size, result in findings.sizes.items():
        text = f"lr {config.learning_rate:g}, N = {size}"
        lines.append([text, Measurement.of(rounds_to_target(result))])
    return Table(
        "Rounds until the training loss is a quarter of the first (DACFL)", ["", "rounds"], lines
    )


def _bytes_table(config: Config, findings: Findings) -> list[Table]:
    """Average of Acc when a user has sent what CDSGD sends in half of its rounds."""
    key = (config.datasets[0], "shards", "sparse")
    result = findings.grid.get(key)
    if result is None or "cdsgd/accuracy_omega" not in result:
        return []
    budget = result.megabytes("cdsgd")[-1] / 2
    lines = []
    for name in (n for n in EQUAL_BYTES if f"{n}/accuracy_mean" in result):
        sent = result.megabytes(name)
        period = min(int(np.searchsorted(sent, budget * (1 - 1e-9))), len(sent) - 1)
        readout = "x" if name == "dacfl" else "omega"
        accuracy = 100 * result[f"{name}/accuracy_{readout}"][:, period].mean(axis=-1)
        rounds = (period + 1) * config.log_every
        lines.append([name, rounds, Measurement.of(accuracy)])
    title = f"At equal bytes: {budget / 1e6:.1f} MB sent by a user ({' '.join(key)})"
    return [Table(title, ["", "rounds", "Average of Acc, %"], lines)]
