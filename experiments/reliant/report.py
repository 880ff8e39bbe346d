"""From the runs to the result: tables, claims, pictures, notes."""

import numpy as np

from experiments.reliant import SUMMARY, TITLE, Config
from experiments.reliant.claims import all_claims, dominated_weights
from experiments.reliant.pictures import all_pictures
from experiments.reliant.settings import OFFICIAL, RULES
from experiments.reliant.study import Cell, Study, run_study
from lab.papers.reliant import by_group
from lab.papers.reliant.metrics import GROUP_SCORES
from lab.report import Measurement, Result, Run, Table

COLUMNS = (
    "method",
    "accuracy",
    "F1",
    "AUC",
    "ΔSP",
    "ΔEO",
    "positive",
    "flips",
    "unstable",
    "epoch",
    "parameters",
    "official accuracy / ΔSP / ΔEO",
)
SHOWN = ("accuracy", "f1", "auc", "delta_sp", "delta_eo", "positive_share")
CHANGES = ("counterfactual", "instability")
MEANING = (
    "flips: predictions that change with the sensitive attribute; unstable: with N(0, 1) noise on "
    "the features (both as they enter the network)."
)


def study_result(config: Config, run: Run) -> Result:
    """Runs the study and puts its result together."""
    study = run_study(config, run)
    tables = []
    for dataset in config.datasets:
        tables += _tables_of(study, dataset)
    notes = [*study.notes, *_warnings(study)]
    uses_true_labels = config.knobs.eo_labels in (None, "official")
    if uses_true_labels and set(config.metrics) & {"eo", "both"}:
        notes.append(
            "EO students see the true labels of validation and test nodes, as in the released "
            "code; --knobs.eo-labels teacher_pseudo is what real use needs."
        )
    return Result(
        TITLE,
        SUMMARY,
        claims=all_claims(config, study),
        tables=tables,
        figures=all_pictures(study, run),
        notes=notes,
    )


def _tables_of(study: Study, dataset: str) -> list[Table]:
    rule = RULES.get(dataset, "selected")
    cells = [c for c in study.cells if c.dataset == dataset]
    majority = float(cells[0].scores["last"]["majority"][0])
    groups = {}
    for cell in cells:
        if cell.method.startswith("curve"):
            continue
        groups.setdefault((cell.teacher, cell.framework), []).append(cell)
    tables = []
    plain = [c for c in cells if not c.framework and not c.method.startswith("curve")]
    for (teacher, framework), members in groups.items():
        if not framework:
            continue
        shown = [c for c in plain if c.method == "teacher" and c.teacher == teacher]
        rows = [_row(c, rule) for c in (*shown, *members)]
        title = f"{dataset}: {framework.upper()} with a {teacher.upper()} teacher"
        note = f"{rule} epoch. Always saying the most frequent label has accuracy {majority:.4f}. "
        note += MEANING
        tables.append(Table(title, COLUMNS, rows, note))
    peers = [c for c in plain if c.method not in ("teacher",)]
    if peers:
        rows = [_row(c, rule) for c in peers]
        tables.append(Table(f"{dataset}: fair graph networks without distillation", COLUMNS, rows))
    return [*tables, *_curves(study, dataset, rule), _groups(study, cells, rule)]


def _row(cell: Cell, rule: str) -> list:
    scores = cell.scores[rule]
    epoch = None if (cell.epochs < 0).all() else Measurement.of(cell.epochs)
    official = OFFICIAL.get((cell.dataset, cell.framework or "cpf", cell.teacher))
    column = {"teacher": 0, "reliant sp": 1, "reliant eo": 2}.get(cell.method)
    told = None
    if official and column is not None:
        told = " / ".join(f"{x:.4f}" for x in official[column])
    values = [Measurement.of(scores[name]) for name in SHOWN]
    values += [Measurement.of(scores[n]) if n in scores else None for n in CHANGES]
    name = cell.method.replace("reliant", "RELIANT")
    return [name, *values, epoch, cell.num_parameters, told]


def _curves(study: Study, dataset: str, rule: str) -> list[Table]:
    tables = []
    for teacher, framework in sorted({(c.teacher, c.framework) for c in study.cells}):
        curve = study.curve(dataset, teacher, framework)
        if curve:
            beaten = dominated_weights(study, (dataset, teacher, framework), rule)
            marks = ["dominated" if is_beaten else "best" for is_beaten in beaten]
            rows = [
                [f"{c.alpha:g}", *_row(c, rule)[1:-3], mark]
                for c, mark in zip(curve, marks, strict=True)
            ]
            columns = ("weight", *COLUMNS[1:-3], "of the curve")
            title = f"{dataset}: weights of the bias, {framework.upper()}"
            note = "dominated: another weight, plain distillation or the teacher is at least as "
            note += "good in AUC and ΔSP, and better in one."
            tables.append(Table(title, columns, rows, note))
    return tables


def _groups(study: Study, cells: list[Cell], rule: str) -> Table:
    """Scores of each group, first seed, and the confusion counts."""
    rows, graph = [], study.graphs[cells[0].dataset]
    for cell in cells:
        if cell.method not in ("teacher", "vanilla", "reliant sp"):
            continue
        for row in by_group(cell.logits[rule][0], graph):
            name = f"{cell.method} {cell.framework} {cell.teacher}".replace("  ", " ")
            scores = [row[n] for n in GROUP_SCORES]
            counts = row["confusion"].ravel() if graph.num_classes == 2 else None
            told = None if counts is None else " / ".join(str(int(n)) for n in counts)
            rows.append([name, row["group"], row["nodes"], *scores, told])
    columns = ("method", "group", "nodes", "accuracy", "F1", "AUC", "base rate", "positive")
    note = "First seed. Counts: true negative / false positive / false negative / true positive."
    return Table(f"{cells[0].dataset}: by group", (*columns, "counts"), rows, note)


def _name(cell: Cell) -> str:
    parts = (cell.dataset, cell.framework.upper(), cell.teacher.upper(), cell.method)
    return " ".join(part for part in parts if part)


def _warnings(study: Study) -> list[str]:
    """What a reader must know of runs that look better than they are."""
    notes = []
    for cell in study.cells:
        rule = RULES.get(cell.dataset, "selected")
        scores, name = cell.scores[rule], _name(cell)
        if scores["collapsed"].any():
            count = int(scores["collapsed"].sum())
            notes.append(
                f"{name}: {count} of {len(cell.epochs)} seeds collapsed to one class, where every "
                "gap is 0."
            )
        if (scores["dead_share"] > 0.5).any():
            dead = int((scores["dead_share"] > 0.5).sum())
            notes.append(f"{name}: the outputs of {dead} of {len(cell.epochs)} seeds are dead.")
        early = (cell.epochs >= 0) & (cell.epochs < 10)
        if rule == "selected" and early.any():
            notes.append(
                f"{name}: {int(early.sum())} seeds were selected from the first ten epochs "
                f"(epochs {np.sort(cell.epochs).tolist()})."
            )
    return notes
