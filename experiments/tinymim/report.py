"""From measurements to claims, tables and pictures."""

from typing import Any

import jax
import numpy as np

from experiments.tinymim import SUMMARY, TITLE, Config, scale
from experiments.tinymim.arms import NAMES
from experiments.tinymim.claims import all_claims
from experiments.tinymim.pictures import all_pictures
from experiments.tinymim.study import Findings, measure_ablations, study
from lab.report import Measurement, Result, Run, Table

NOTES = (
    "At this scale networks, pictures and steps are thousands of times fewer than the paper's; "
    "which target is best is decided there alone, so its claims are reported, not judged.",
    "The CLS arms rest on choices of ours (a softmax over channels, norms), as the paper names "
    "none, and are no evidence against class tokens.",
    "Fine-tuned accuracy is that of the last step; the best on the way, which the official code "
    "reports, stands beside it.",
)


def study_result(config: Config, run: Run) -> Result:
    """Measures everything (what a killed run had measured is kept), then judges it."""
    found = {name: study(config, run, name) for name in config.datasets}
    ablations = measure_ablations(config, run) if config.ablations else []
    full = measure_scale(config, run)
    return Result(
        TITLE,
        SUMMARY,
        claims=all_claims(found, ablations, full),
        tables=all_tables(found, ablations, full),
        figures=all_pictures(config, run, found, ablations),
        notes=NOTES,
    )


def measure_scale(config: Config, run: Run) -> dict[str, Any]:
    """Sizes, and of the presets that ask for it what full-size steps cost."""
    measured: dict[str, Any] = {"sizes": scale.model_sizes()}
    if run.preset == "paper":
        sizes = config.timed_sizes
        measured["reduced"] = run.kept(
            "reduced-steps", lambda: {size: scale.reduced_step(size) for size in sizes}
        )
        if jax.default_backend() == "cpu":
            return measured
    if config.timed_sizes:
        with run.progress("full-size steps", len(config.timed_sizes)):
            measured["timed"] = run.kept("timed-steps", lambda: scale.time_sizes(config))
    if config.streamed_steps:
        with run.progress("streamed pictures", config.streamed_steps):
            measured["waiting"] = run.kept(
                "waiting", lambda: scale.measure_waiting(config, run.data_dir)
            )
    return measured


def all_tables(
    found: dict[str, Findings], ablations: list[dict[str, Any]], full: dict[str, Any]
) -> list[Table]:
    """Every table of the run."""
    tables = [score_table(name, one) for name, one in found.items()]
    if ablations:
        tables.append(ablation_table(ablations))
    tables.append(size_table(full["sizes"]))
    if "timed" in full:
        tables.append(speed_table(full))
    if "reduced" in full:
        rows = [(size, loss) for size, loss in full["reduced"].items()]
        tables.append(Table("One step at a quarter of the width", ("student", "loss"), rows))
    return tables


def percent(values: Any) -> Measurement:
    """Accuracies as a measurement in percent."""
    return Measurement.of(100 * np.asarray(values), "%")


def score_table(name: str, found: Findings) -> Table:
    """Probes and fine-tuned accuracy of every arm."""
    blocks = [key for key in found.probes["random"] if key.startswith("block")]
    rows = []
    for arm, label in NAMES.items():
        key = "random" if arm == "scratch" else arm
        if key not in found.probes:
            continue
        probes = found.probes[key]
        tuned = found.finetuned[arm]
        rows.append(
            (
                "none (random features)" if arm == "scratch" else label,
                *(percent(probes[block]) for block in blocks),
                percent(probes["knn"]),
                percent(tuned[:, -1]),
                percent(tuned.max(axis=1)),
            )
        )
    teacher = found.probes["teacher"]
    (last,) = (key for key in teacher if key.startswith("block"))
    missing = [""] * (len(blocks) - 1)
    rows.append((f"teacher ({last})", *missing, percent(teacher[last]), percent(teacher["knn"]),
                 "", ""))  # fmt: skip
    chance = 100 / found.pictures.num_classes
    return Table(
        f"Students on {name}",
        ("pre-training", *(f"probe {block}" for block in blocks), "20-NN", "fine-tuned", "best"),
        rows,
        note=f"Chance is {chance:.1f}%. Probes are of mean patch tokens of the student's blocks.",
    )


def ablation_table(rows: list[dict[str, Any]]) -> Table:
    """Every point of every ablation."""
    blocks = sorted(key for key in rows[0]["probe"] if key.startswith("block"))
    cells = []
    for row in rows:
        probes = [100 * row["probe"][block][0] if block in row["probe"] else "" for block in blocks]
        share = row["last_loss"] / row["first_loss"]
        cells.append((row["claim"], row["name"], *probes, share, row["paper"]))
    columns = ("claim", "changed", *(f"probe {block}, %" for block in blocks))
    return Table(
        "Ablations on shapes12",
        (*columns, "loss, share of its start", "paper, top-1 %"),
        cells,
        note="Single short runs of one batch order and one teacher; differences below about three "
        "points are noise. Everything not named is the default: relations QK + VV with softmax of "
        "block 4, drop path 0.1, whole pictures.",
    )


def size_table(sizes: list[dict[str, Any]]) -> Table:
    """Parameters and multiply-adds at 224 px."""
    rows = [
        (
            row["size"],
            row["encoder"],
            row["classifier"],
            row["mae"] or "",
            round(row["multiply_adds"] / 1e9, 2),
        )
        for row in sizes
    ]
    return Table(
        "Sizes at 224 px",
        ("model", "encoder", "trained, with 1000 classes", "MAE", "G multiply-adds"),
        rows,
        note="From shapes alone.",
    )


def speed_table(full: dict[str, Any]) -> Table:
    """What a full-size distillation step costs on this machine."""
    timed, waiting = full["timed"], full.get("waiting")
    rows = [
        (
            f"{row['size']} from {row['teacher_size']}",
            row["batch_size"],
            row["steps_per_second"],
            row["images_per_second"],
            f"{row['peak_bytes'] / 2**30:.2f} GiB",
            f"{row['mfu']:.0%}",
            Measurement.of(row["step_over_parts"], "x"),
        )
        for row in timed["rows"]
    ]
    streamed = ""
    if waiting:
        streamed = (
            f" ViT-T on streamed ImageNet pictures: {waiting['images_per_second']:.2f} images/s, "
            f"{waiting['waiting_share']:.1%} of the time waiting for data."
        )
    return Table(
        "A full-size distillation step",
        ("student", "batch", "steps/s", "images/s", "peak memory", "MFU", "step / parts"),
        rows,
        note=f"224 px, {timed['dtype']}. MFU is the share of {timed['peak'] / 1e9:,.0f} GFLOP/s, "
        "measured on a large matrix product in the same run. Parts: teacher forward and student "
        f"forward-backward.{streamed}",
    )
