"""The runs of the study; each is kept when it is done, so that a resumed study skips it."""

import dataclasses
import functools
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import lab.data
from experiments.reliant import Config
from experiments.reliant.settings import (
    CPF_ALPHA_SCALE,
    peer_configs,
    student_config,
    teacher_config,
)
from lab.data.fair_graphs import without_feature
from lab.data.npz import read_npz, write_npz
from lab.errors import NonFiniteError, require
from lab.papers.reliant import (
    FairGraph,
    StudentConfig,
    TeacherKnowledge,
    changed_predictions,
    evaluate_copies,
    hide_sensitive,
    knowledge,
    mask_correlated,
    predict,
    prepare,
    seed_keys,
    sensitive_columns,
    teach,
    train_fairgnn,
    train_nifty,
    train_students,
    with_features,
    without_edges,
)
from lab.papers.reliant.generated import biased_graph
from lab.papers.reliant.metrics import parameter_count
from lab.report import Run
from lab.train.checkpoints import Checkpoints
from lab.train.whole import first_bad_step

RULES = ("selected", "last")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one method did on one data set.

    Attributes:
      dataset, teacher, framework, method: what it was; teacher and framework "" where none.
      scores: rule -> name of a score -> float [seeds].
      epochs: int [seeds], the selected epoch; -1 where the method has none.
      alpha: weight of the bias.
      logits: float [seeds, N, C] by rule.
      proxy: float [N, d] of the first seed, or None.
      num_parameters: of the network that scores, where that was counted.
    """

    dataset: str
    teacher: str
    framework: str
    method: str
    scores: dict[str, dict[str, np.ndarray]]
    epochs: np.ndarray
    alpha: float
    logits: dict[str, np.ndarray]
    proxy: np.ndarray | None = None
    num_parameters: int | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """All cells; graphs by data set; notes for the reader."""

    cells: tuple[Cell, ...]
    graphs: dict[str, FairGraph]
    notes: tuple[str, ...]

    def get(self, dataset: str, teacher: str, framework: str, method: str) -> Cell | None:
        """A cell by name, or None where it was not run."""
        wanted = (dataset, teacher, framework, method)
        found = (c for c in self.cells if (c.dataset, c.teacher, c.framework, c.method) == wanted)
        return next(found, None)

    def curve(self, dataset: str, teacher: str, framework: str) -> list[Cell]:
        """The cells of a trade-off curve, by weight."""
        points = [
            c
            for c in self.cells
            if (c.dataset, c.teacher, c.framework) == (dataset, teacher, framework)
            and c.method.startswith("curve")
        ]
        return sorted(points, key=lambda cell: cell.alpha)


def run_study(config: Config, run: Run) -> Study:
    """Every run that the configuration asks for."""
    _check(config)
    cells, graphs, notes = [], {}, []
    for name in config.datasets:
        dataset = _load(config, run, name)
        graphs[name] = graph = _prepare(config, dataset)
        notes += _sensitive_note(name, dataset, config)
        bench = _Bench(config, run, name, graph, _changed_graphs(config, dataset, graph))
        is_extended = name in config.extended
        for number, teacher in enumerate(config.teachers if is_extended else config.teachers[:1]):
            taught = bench.teacher(teacher)
            cells.append(bench.teacher_cell(teacher, taught))
            for framework in config.frameworks:
                cells += bench.students(framework, teacher, taught, is_first=number == 0)
        if is_extended:
            taught = bench.teacher(config.teachers[0])
            cells += _peers(bench, dataset, taught) if config.peers else []
            cells += _partly_known(bench, taught)
    return Study(tuple(cells), graphs, tuple(notes))


def _check(config: Config) -> None:
    choices = {
        "frameworks": ("akd", "cpf"),
        "metrics": ("sp", "eo", "both"),
        "proxy_modes": ("learned", "sensitive", "none"),
    }
    for name, accepted in choices.items():
        for value in getattr(config, name):
            require(value in accepted, f"{name} holds {value!r}; accepted: {', '.join(accepted)}")
    require(len(config.seeds) > 0 and len(config.teachers) > 0, "name a seed and a teacher")
    require(
        len(set(config.seeds)) == len(config.seeds),
        f"seeds are {config.seeds}; repeats are no runs",
    )


def _load(config: Config, run: Run, name: str):
    if name == "generated":
        dataset = biased_graph()
        return without_feature(dataset, "sensitive") if config.drop_sensitive else dataset
    options: dict[str, Any] = {}
    if name in ("bail", "credit"):
        options["mini"] = config.mini
    if config.split != "paper":
        options["split"] = config.split
    if name != "dblp_small":
        options["drop_sensitive"] = config.drop_sensitive
    return lab.data.load(name, data_dir=run.data_dir, **options)


def _prepare(config: Config, dataset) -> FairGraph:
    kind = config.features
    if kind == "official" and dataset.name == "generated":
        kind = "raw"
    return prepare(dataset, features=kind)


def _changed_graphs(config: Config, dataset, graph: FairGraph) -> dict[str, FairGraph]:
    """Graphs on which no prediction should change: the attribute flipped (where it is a feature),
    and N(0, 1) noise on all features."""
    noise = jax.random.normal(jax.random.key(config.teacher_seed), graph.features.shape)
    changed = {"instability": with_features(graph, graph.features + noise)}
    column = _column_of_sensitive(dataset)
    if column is not None:
        flipped = dataset.features.copy()
        values = flipped[:, column]
        flipped[:, column] = values.min() + values.max() - values
        other = _prepare(config, dataclasses.replace(dataset, features=flipped))
        changed["counterfactual"] = with_features(graph, other.features)
    return changed


def _sensitive_note(name, dataset, config) -> list[str]:
    columns = sensitive_columns(dataset)
    if columns:
        return [
            f"{name}: the features hold the sensitive attribute itself ({', '.join(columns)}); "
            "--drop-sensitive takes it out."
        ]
    return [f"{name}: the sensitive attribute is not among the features."]


@dataclasses.dataclass
class _Bench:
    """Runs of one data set."""

    config: Config
    run: Run
    dataset: str
    graph: FairGraph
    changed: dict[str, FairGraph]
    teacher_sizes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def teacher(self, architecture: str, graph: FairGraph | None = None, name: str = ""):
        """A taught teacher's knowledge, trained once."""
        graph = self.graph if graph is None else graph

        def train():
            settings = teacher_config(self.config, self.dataset, architecture)
            taught = teach(settings, graph, jax.random.key(self.config.teacher_seed))
            return {
                "log_probs": np.asarray(taught.knowledge.log_probs),
                "embedding": np.asarray(taught.knowledge.embedding),
                "epoch": np.asarray(taught.best_epoch),
                "parameters": np.asarray(parameter_count(taught.variables)),
            }

        found = self._kept(f"teacher-{name or 'plain'}-{architecture}", train)
        self.teacher_sizes[architecture] = found["parameters"]
        return knowledge(log_probs=found["log_probs"], embedding=found["embedding"])

    def teacher_cell(self, architecture: str, taught: TeacherKnowledge) -> Cell:
        """The teacher's own scores."""
        logits, size = np.asarray(taught.log_probs)[None], self.teacher_sizes[architecture]
        return self._cell(architecture, "", "teacher", 0.0, logits, parameters=size)

    def students(self, framework, teacher, taught, *, is_first: bool) -> list[Cell]:
        """Vanilla, RELIANT for each metric, and with the first teacher ablations and the curve."""
        config = self.config
        base = student_config(config, self.dataset, framework, teacher)
        weight = base.resolved().alpha
        names = {0.0: "vanilla"}
        if is_first and "none" in config.proxy_modes:
            names[weight] = "reg only"
        main = config.metrics[0]
        cells = self._run(framework, teacher, taught, base, names, main, "none")
        for metric in config.metrics:
            names = {weight: f"reliant {metric}"}
            if metric == main and is_first and f"{self.dataset}/{framework}" in config.sweeps:
                scale = CPF_ALPHA_SCALE if framework == "cpf" else 1.0
                names |= {a * scale: f"curve {a * scale:g}" for a in config.alphas}
                names[weight] = f"reliant {metric}"
            made = self._run(framework, teacher, taught, base, names, metric, "learned")
            cells += made
            cells += [
                dataclasses.replace(cell, method=f"curve {weight:g}")
                for cell in made
                if len(names) > 1 and cell.method.startswith("reliant")
            ]
        if is_first and "sensitive" in config.proxy_modes:
            names = {weight: "sensitive proxy"}
            cells += self._run(framework, teacher, taught, base, names, main, "sensitive")
        return cells

    def _run(self, framework, teacher, taught, base, names, metric, proxy_mode, graph=None):
        """Students of several weights and all seeds in one call; one cell a weight."""
        fairness = dataclasses.replace(base.fairness, metric=metric, proxy_mode=proxy_mode)
        student = dataclasses.replace(base, fairness=fairness)
        alphas = sorted(names)
        title = f"{self.dataset}-{teacher}-{framework}-{metric}-{proxy_mode}"
        title += "".join(
            f"-{names[a]}" for a in alphas if names[a].startswith(("known", "fewer", "without"))
        )
        found = self.train(title.replace(" ", "_"), student, taught, alphas, graph)
        cells = []
        for i, alpha in enumerate(alphas):
            found_here = {name: values[i] for name, values in found.items()}
            cells.append(self._cell(teacher, framework, names[alpha], alpha, **found_here))
        return cells

    def train(self, title, student: StudentConfig, taught, alphas, graph=None) -> dict:
        """Logits of both rules [alphas, seeds, N, C], selected epochs, the first seed's proxies."""
        changed = self.changed if graph is None else {}
        graph = self.graph if graph is None else graph
        keys = seed_keys(self.config.seeds)

        def train():
            total = student.resolved().max_epochs
            folder = self.run.checkpoints / f"{title}.partial"
            with self.run.progress(title, total) as task:
                done = [0]

                def on_chunk(epochs, history):
                    task.advance(epochs - done[0], loss=float(history["loss"][..., -1].mean()))
                    done[0] = epochs

                runs = train_students(
                    student,
                    graph,
                    taught,
                    keys,
                    alphas,
                    checkpoints=Checkpoints(folder, keep=1),
                    chunk_epochs=min(self.config.checkpoint_epochs, total),
                    on_chunk=on_chunk,
                )
            _look_for_bad_copies(title, runs.history)
            shutil.rmtree(folder, ignore_errors=True)
            found = {
                "selected": np.asarray(runs.logits),
                "last": np.asarray(runs.last_logits),
                "epochs": runs.best_epoch,
            }
            for name, other in changed.items():
                outputs = predict(student, other, taught, runs.states)
                found[f"{name}/selected"], found[f"{name}/last"] = map(np.asarray, outputs)
            size = parameter_count(runs.states.params["student"]) // runs.best_epoch.size
            found["parameters"] = np.full(len(alphas), size)
            if runs.states.params["proxy"] is not None:
                found["proxy"] = np.asarray(runs.states.params["proxy"])[:, 0]
            return found

        return self._kept(title, train)

    def _kept(self, title: str, make: Callable[[], dict[str, np.ndarray]]) -> dict:
        path = self.run.checkpoints / f"{self.dataset}-{title}.npz"
        if path.is_file():
            names = np.load(path, allow_pickle=False).files
            return read_npz(path, names)
        found = make()
        write_npz(path, **found)
        return found

    def _cell(
        self,
        teacher,
        framework,
        method,
        alpha,
        selected,
        last=None,
        epochs=None,
        proxy=None,
        parameters=None,
        **more,
    ) -> Cell:
        logits = {"selected": selected, "last": selected if last is None else last}
        scores = {rule: evaluate_copies(x, self.graph) for rule, x in logits.items()}
        for name, others in more.items():  # "instability/last": logits of a changed graph
            score, rule = name.split("/")
            pairs = zip(logits[rule], others, strict=True)
            changed = [changed_predictions(a, b, self.graph) for a, b in pairs]
            scores[rule][score] = np.array(changed)
        epochs = np.full(len(selected), -1) if epochs is None else epochs
        means = {n: float(np.mean(v)) for n, v in scores["selected"].items() if n != "collapsed"}
        labels = {"dataset": self.dataset, "teacher": teacher, "framework": framework}
        self.run.log(0, **labels, method=method, alpha=alpha, **means)
        size = None if parameters is None else int(parameters)
        labelled = (self.dataset, teacher, framework, method)
        return Cell(*labelled, scores, epochs, alpha, logits, proxy, size)


def _look_for_bad_copies(title: str, history) -> None:
    """Raises where no copy of a run stayed finite; warns of single ones."""
    bad = first_bad_step(history)
    if (bad >= 0).all():
        raise NonFiniteError(f"{title}: the loss became non-finite in all copies", int(bad.min()))
    if (bad >= 0).any():
        warnings.warn(
            f"{title}: {int((bad >= 0).sum())} of {bad.size} copies became non-finite, first at "
            f"epoch {int(bad[bad >= 0].min())}; they count with their last good epoch",
            stacklevel=2,
        )


def _peers(bench: _Bench, dataset, taught: TeacherKnowledge) -> list[Cell]:
    """Peers, and pre-processing with the first teacher and framework."""
    config, run = bench.config, bench.run
    teacher, framework = config.teachers[0], config.frameworks[0]
    base = student_config(config, bench.dataset, framework, teacher)
    cells = []
    for plain, method in (("kd", "plain KD"), ("vani", "labels only")):
        student = student_config(config, bench.dataset, plain, teacher)
        cells += bench._run(plain, teacher, taught, student, {0.0: method}, "sp", "none")
    keys = seed_keys(config.seeds)
    fairgnn, nifty = peer_configs(config, _column_of_sensitive(dataset))
    runners = {
        "FairGNN": functools.partial(train_fairgnn, fairgnn),
        "NIFTY": functools.partial(train_nifty, nifty),
    }
    for name, train in runners.items():
        with run.progress(f"{bench.dataset} {name}", 1) as task:
            logits = lambda train=train: {"logits": np.asarray(train(bench.graph, keys)[0])}  # noqa: E731
            found = bench._kept(name, logits)
            task.advance(1)
        cells.append(bench._cell("", "", name, 0.0, found["logits"]))
    changed = {
        "fewer edges between groups": without_edges(
            dataset, config.peer.dropped_edges, config.peer.dropped_between
        ),
        "without correlated columns": mask_correlated(dataset, config.peer.masked_columns),
    }
    for method, other in changed.items():
        graph = _prepare(config, other)
        name = method.replace(" ", "_")
        other_teacher = bench.teacher(teacher, graph, name)
        cells += bench._run(
            framework, teacher, other_teacher, base, {0.0: method}, "sp", "none", graph
        )
    return cells


def _partly_known(bench: _Bench, taught: TeacherKnowledge) -> list[Cell]:
    """RELIANT where only a share of the nodes has a known sensitive attribute."""
    teacher, framework = bench.config.teachers[0], bench.config.frameworks[0]
    base, cells = student_config(bench.config, bench.dataset, framework, teacher), []
    for share in bench.config.known_shares:
        graph = hide_sensitive(bench.graph, share)
        names = {base.resolved().alpha: f"known {share:g}"}
        cells += bench._run(framework, teacher, taught, base, names, "sp", "learned", graph)
    return cells


def _column_of_sensitive(dataset) -> int | None:
    columns = sensitive_columns(dataset)
    return dataset.feature_names.index(columns[0]) if columns and dataset.feature_names else None
