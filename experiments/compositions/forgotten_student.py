"""Graph unlearning x RELIANT: does a student forget what its teacher does not?

python -m experiments.compositions.forgotten_student
"""

import dataclasses

import jax
import numpy as np

from experiments.compositions.launch import launch
from lab.metrics.classification import micro_f1
from lab.papers import graph_unlearning, reliant
from lab.papers.reliant.generated import biased_graph
from lab.report import Measurement, Result, Run, Table

TITLE = "A student that forgets"
SUMMARY = "Graph unlearning's attack on RELIANT's students, after nodes were deleted."
# GraphAKD's student without discriminators, and CPF's, which carries every train node's label.
STUDENTS = {
    "kd": reliant.StudentConfig("kd", alpha=30.0, learning_rate=1e-2),
    "cpf": reliant.StudentConfig(
        "cpf",
        alpha=100.0,
        plp=reliant.PLPConfig(num_layers=5, feat_drop=0.2),
        learning_rate=5e-3,
        proxy_learning_rate=5e-3,
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """How large the graph, how many nodes to forget."""

    num_nodes: int = 400
    """Nodes of the generated graph."""
    num_forgotten: int = 40
    """Train nodes that are deleted."""
    num_epochs: int = 100
    """Epochs of teacher and students."""
    num_seeds: int = 5
    """Students, one a seed."""
    students: tuple[str, ...] = ("kd", "cpf")
    """RELIANT's frameworks."""


def main(config: Config, run: Run) -> Result:
    """Attacks students that forgot, whose teacher forgot too, and that had nothing to forget."""
    dataset, rng = biased_graph(num_nodes=config.num_nodes), np.random.default_rng(0)
    members = np.flatnonzero(dataset.train_mask)
    forgotten = rng.choice(members, config.num_forgotten, replace=False)
    others = np.flatnonzero(dataset.test_mask)
    others = graph_unlearning.draw_negatives(others, config.num_forgotten, rng)
    whole, left = (reliant.prepare(d) for d in (dataset, dataset.without_nodes(forgotten)))
    # Whoever asks knows a node's edges and features, and not its label.
    asked = whole.replace(train_mask=left.train_mask)
    teacher = reliant.TeacherConfig("gcn", max_epochs=config.num_epochs)
    knows, forgot = (
        reliant.teach(teacher, graph, jax.random.key(0)).knowledge for graph in (whole, left)
    )
    rows = []
    for framework in config.students:
        student = dataclasses.replace(STUDENTS[framework], max_epochs=config.num_epochs)

        def posteriors(graph, taught, first_seed=0, student=student):
            """Log-probabilities [seeds, N, C] of students trained on `graph`."""
            keys = reliant.seed_keys(range(first_seed, first_seed + config.num_seeds))
            states = reliant.train_students(student, graph, taught, keys).states
            logits, _ = reliant.predict(student, asked, taught, states)
            return np.asarray(jax.nn.log_softmax(logits))

        before = posteriors(whole, knows)
        after = {
            "nobody (another seed)": posteriors(whole, knows, config.num_seeds),
            "the student": posteriors(left, knows),
            "student and teacher": posteriors(left, forgot),
        }
        for name, now in after.items():
            attacks = [
                graph_unlearning.membership_attack(
                    old[forgotten], new[forgotten], old[others], new[others], rng, num_resamples=1
                )
                for old, new in zip(before, now, strict=True)
            ]
            right = [micro_f1(x[forgotten].argmax(1), dataset.labels[forgotten]) for x in now]
            auc = Measurement.of([attack.auc for attack in attacks])
            rows.append((f"{framework}: {name}", auc, Measurement.of(right)))
    columns = ("student: who forgot", "AUC of the attack", "accuracy on forgotten nodes")
    note = "The attack tells deleted nodes from never-trained ones; 0.5 is chance."
    return Result(TITLE, SUMMARY, tables=[Table("Deleted nodes", columns, rows, note)])


if __name__ == "__main__":
    raise SystemExit(launch("forgotten_student"))
