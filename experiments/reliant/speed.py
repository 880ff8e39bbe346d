"""What a sweep gains by running together, and how near a step comes to the memory's speed."""

import functools
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

import lab.data
from experiments.speed import SpeedCase
from lab.errors import DatasetNotFoundError
from lab.papers.reliant import (
    RELIANT,
    FairGraph,
    PLPConfig,
    StudentConfig,
    TeacherConfig,
    init_student,
    knowledge,
    make_epoch,
    make_task,
    prepare,
    seed_keys,
    train_students,
)
from lab.papers.reliant.generated import biased_graph
from lab.papers.reliant.metrics import parameter_count
from lab.papers.reliant.objective import mean_proxy
from lab.papers.reliant.steps import student_outputs
from lab.papers.reliant.teachers import build_teacher

SEEDS, WEIGHTS = 5, (1.0, 10.0, 100.0, 1e3, 1e4)


def cases() -> Iterator[SpeedCase]:
    """Sweeps of both frameworks on a graph of 4,000 nodes, then whole public graphs if here."""
    small = prepare(biased_graph(num_nodes=4000, num_features=18, mean_degree=7.0))
    yield _sweep("GraphAKD, 4,000 nodes, 5 seeds x 5 weights", "akd", small, 40)
    yield _sweep("CPF, 4,000 nodes, 5 seeds x 5 weights", "cpf", small, 10)
    for name, title, epochs in (
        ("bail", "the whole Recidivism graph", 10),
        ("dblp_small", "DBLP, 39,424 nodes, synthetic words", 2),
    ):
        try:
            dataset = lab.data.load(name)
        except DatasetNotFoundError:
            continue
        graph = prepare(dataset, features="official")
        for framework in ("cpf", "akd"):
            yield _single(f"{framework.upper()} on {title}", framework, graph, epochs)
        if name == "bail":
            yield from _scoring(title, graph)


def _sweep(name: str, framework: str, graph: FairGraph, epochs: int) -> SpeedCase:
    student, taught = _student(framework, epochs), _taught(graph)
    keys = seed_keys(range(SEEDS))

    def train(keys, weights, copies="auto"):
        return train_students(student, graph, taught, keys, weights, copies=copies).logits

    def one_at_a_time():
        return [train(keys[i : i + 1], [w]) for w in WEIGHTS for i in range(SEEDS)]

    def python_loop():
        task = make_task(student, graph, taught)
        step = jax.jit(make_epoch(student))
        for weight in WEIGHTS:
            for key in keys:
                state = init_student(student, task, key, weight)
                for _ in range(epochs):
                    state, _ = step(state, task)
        return state.params

    aside = _seconds(lambda: train(keys, WEIGHTS, "together"))
    turn = _seconds(lambda: train(keys, WEIGHTS, "in_turn"))
    return SpeedCase(
        name,
        lambda: train(keys, WEIGHTS),
        one_at_a_time,
        python_loop,
        num_steps=epochs,
        num_copies=SEEDS * len(WEIGHTS),
        note=f"{traffic(student, graph)}. Inside the call the copies run in turn ({turn:.2f} s) or "
        f"side by side ({aside:.2f} s)",
    )


def _single(name: str, framework: str, graph: FairGraph, epochs: int) -> SpeedCase:
    student, taught, keys = _student(framework, epochs), _taught(graph), seed_keys([0])
    return SpeedCase(
        name,
        lambda: train_students(student, graph, taught, keys).logits,
        num_steps=epochs,
        note=traffic(student, graph),
    )


def _scoring(title: str, graph: FairGraph) -> Iterator[SpeedCase]:
    """What a prediction for every node costs: a student is no smaller than its teacher."""
    teacher = build_teacher(TeacherConfig("gcn"), graph.num_classes)
    inputs = (graph.links, graph.features, graph.aggregate)
    variables = teacher.init(jax.random.key(0), *inputs, train=False)
    apply = jax.jit(lambda variables, inputs: teacher.apply(variables, *inputs, train=False))
    calls = {"the GCN teacher": (apply, variables, inputs)}
    for framework in ("cpf", "akd"):
        student = _student(framework, 1)
        task = make_task(student, graph, _taught(graph))
        state = init_student(student, task, jax.random.key(0))
        outputs = jax.jit(functools.partial(_outputs, student))
        calls[f"the {framework.upper()} student"] = (outputs, state.params, task)
    for name, (call, params, rest) in calls.items():
        counted = params.get("student", params)
        yield SpeedCase(
            f"all nodes of {title} scored by {name}",
            functools.partial(call, params, rest),
            num_steps=1,
            note=f"{parameter_count(counted):,} parameters",
        )


def _outputs(student: StudentConfig, params, task):
    return student_outputs(student, task, params["student"], mean_proxy(params["proxy"]), None)[0]


def _student(framework: str, epochs: int) -> StudentConfig:
    plp = PLPConfig(feat_drop=0.2)
    return StudentConfig(framework, RELIANT, plp=plp, max_epochs=epochs).resolved()


def _taught(graph: FairGraph):
    generator = np.random.default_rng(0)
    shape = (graph.num_nodes, 64)
    return knowledge(
        logits=generator.normal(size=(graph.num_nodes, 2)),
        embedding=np.abs(generator.normal(size=shape)),
    )


def _seconds(way) -> float:
    jax.block_until_ready(way())
    start = time.perf_counter()
    jax.block_until_ready(way())
    return time.perf_counter() - start


def traffic(student: StudentConfig, graph: FairGraph) -> str:
    """Bytes that a step must move at least, against what the memory of this machine moves."""
    moved = bytes_of_step(student, graph)
    speed = memory_bandwidth()
    return (
        f"a step moves at least {moved / 1e6:,.1f} MB, this machine's memory {speed / 1e9:,.1f} "
        f"GB/s: no less than {1e3 * moved / speed:,.2f} ms a step were it bound by memory alone"
    )


def bytes_of_step(student: StudentConfig, graph: FairGraph) -> float:
    """Rows gathered for every link plus node arrays read and written once, gradient included."""
    nodes, links = graph.num_nodes, graph.links.senders.shape[0]
    width = graph.features.shape[1] + student.fairness.proxy_dim
    floats = 4
    if student.framework == "cpf":
        steps, classes = student.plp.num_layers - 1, graph.num_classes
        gathered = links * (floats * (classes + 2) + 4)
        branch = nodes * floats * (width + student.plp.emb_dim)
        passes = 2 * 2 + 1  # two players forward and backward, one look
        return passes * steps * (gathered + branch)
    hidden = student.sgc.hidden_dim or 64
    gathered = links * (floats * hidden + 4)
    layers = nodes * floats * (width + 4 * hidden)
    # Forward and backward of both players and one look; the products of pairs are read four times.
    pairs = graph.pairs.first.shape[0] * floats * hidden
    return 5 * (gathered + layers) + 4 * pairs


def memory_bandwidth(megabytes: int = 256) -> float:
    """Bytes a second that copying a large array reads and writes, best of five."""
    x = jnp.ones(megabytes * 2**20 // 4, jnp.float32)
    copy = jax.jit(lambda x: x * 1.5)
    jax.block_until_ready(copy(x))
    best = min(_seconds(lambda: copy(x)) for _ in range(5))
    return 2 * x.nbytes / best
