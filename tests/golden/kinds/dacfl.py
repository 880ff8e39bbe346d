"""Golden kinds of dacfl: graphs, weights, consensus, whole runs, partitions, measures, models."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.convnets import ConvNetConfig, MLPConfig
from lab.papers.dacfl import (
    algorithms,
    communication,
    consensus,
    convert,
    failures,
    losses,
    metrics,
    mixing,
    models,
    network,
    partition,
    rounds,
    schedules,
    topology,
)
from lab.papers.dacfl.users import UserAxis


def named(entry, prefix):
    """The arrays below a prefix, as a nested dict."""
    found = {
        key.removeprefix(prefix): entry.arrays[key]
        for key in entry.arrays
        if key.startswith(prefix)
    }
    return jax.tree.map(jnp.asarray, convert.from_flat(found))


def outputs(values, prefix="output/"):
    return {f"{prefix}{name}": np.asarray(value) for name, value in values.items()}


def graph(entry):
    config, arrays = entry.config, entry.arrays
    n = config.get("n")
    match config["name"]:
        case "torus":
            adjacency = topology.torus(config["rows"], config["cols"])
        case "erdos_renyi":
            adjacency = topology.erdos_renyi_from(arrays["input/uniform"], config["p"])
        case "watts_strogatz":
            assert 2 * len(arrays["input/rewire_uniform"]) == config["k"]
            draws = arrays["input/rewire_uniform"], arrays["input/target_uniform"]
            adjacency = topology.watts_strogatz_from(*draws, config["p"])
        case "density":
            draws = [arrays[f"input/{name}"] for name in ("perm", "attach", "priority")]
            adjacency = topology.density_from(*draws, config["psi"])
        case name:
            adjacency = getattr(topology, name)(n)
    return outputs({"adjacency": adjacency, "num_components": topology.num_components(adjacency)})


def one_peer(entry):
    matrices = mixing.one_peer_exponential(entry.config["n"])
    return outputs({"W": matrices, "product": functools.reduce(lambda a, b: b @ a, matrices)})


def mixing_matrix(entry):
    config, arrays = entry.config, entry.arrays
    method = config["method"]
    if method == "birkhoff":
        matrix = mixing.birkhoff(arrays["input/perms"], arrays["input/coeffs"])
    elif method == "random_symmetric":
        matrix = mixing.random_symmetric_from(arrays["input/adjacency"], arrays["input/uniform"])
    else:
        settings = mixing.MixingConfig(method, config.get("eps"))
        matrix = mixing.draw_matrix(arrays["input/adjacency"], settings, None)
    found = mixing.spectrum(mixing.to_float32(matrix))
    pieces = found.num_components
    if "input/adjacency" in arrays:
        pieces = topology.num_components(arrays["input/adjacency"])
    return outputs(
        {
            "W": mixing.to_float32(matrix),
            "sigma": found.sigma,
            "spectral_gap": found.spectral_gap,
            "eigenvalues": found.eigenvalues,
            "density": found.density,
            "num_components": pieces,
        }
    )


def link_repair(entry):
    arrays = entry.arrays
    up, active = arrays["input/link_up"], arrays["input/active"]
    failures.check_masks(active[None], up[None], 1, len(active), entry.config["repair"])
    matrix = failures.repair(jnp.asarray(arrays["input/W"]), jnp.asarray(up), jnp.asarray(active))
    sums = {"row_sums": matrix.sum(axis=1), "column_sums": matrix.sum(axis=0)}
    return outputs({"W": matrix} | sums)


def dynamic_consensus(entry):
    signals, weights = entry.arrays["input/signals"], entry.arrays["input/W"]
    reset_every = entry.config["reset_every"]
    x = consensus.fodac(signals, weights, reset_every)
    errors = {
        "error": x,
        "neighbour_error": consensus.neighbour_average(signals, weights),
        "static_error": consensus.static_consensus(signals, weights),
    }
    computed = {name: consensus.tracking_error(values, signals) for name, values in errors.items()}
    computed |= {"x": x, "average": signals.mean(axis=1), "sigma": mixing.sigma_of(weights)}
    if not reset_every:
        start = float(consensus.tracking_error(signals[:1], signals[:1])[0])
        increments = consensus.increments_of(signals)
        bound = consensus.tracking_bound(increments, computed["sigma"], start)
        assert (np.asarray(computed["error"]) <= bound * (1 + 1e-5) + 1e-6).all()
        computed["bound"] = bound
    return outputs(computed)


def model_config(config):
    if config["kind"] == "mlp":
        return MLPConfig(tuple(config["dims"][1:-1]), config["dims"][-1])
    kernels, paddings = zip(*((c["kernel"], c["padding"]) for c in config["conv"]), strict=True)
    assert len(set(kernels)) == len(set(paddings)) == 1
    return ConvNetConfig(
        features=tuple(c["features"] for c in config["conv"]),
        kernel=kernels[0],
        padding=paddings[0],
        pool_window=config["pool"]["window"],
        pool_stride=config["pool"]["stride"],
        pool_padding=config["pool"]["padding"],
        hidden=tuple(config["dense"][:-1]),
        num_classes=config["dense"][-1],
    )


@functools.cache
def loss_of(model):
    return losses.classification_loss(models.build(model).apply)


@functools.cache
def gradient_of(model):
    """Compiled `(params, batch) -> (loss, logits, grads)`."""
    loss_fn = loss_of(model)

    def gradient(params, batch):
        logits = models.build(model).apply({"params": params}, batch["inputs"])
        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, {}, batch, None)
        return loss, logits, grads

    return jax.jit(gradient)


def classifier(entry):
    params = named(entry, "param/")
    batch = {"inputs": entry.arrays["input/x"], "labels": entry.arrays["input/labels"]}
    loss, logits, grads = gradient_of(model_config(entry.config))(params, batch)
    size = sum(x.size for x in jax.tree.leaves(params))
    computed = outputs({"loss": loss, "logits": logits, "num_params": size})
    return computed | outputs(convert.to_flat(grads), "grad/")


@functools.cache
def compiled_round(config_text):
    """A round, compiled once for all numbers of rounds."""
    config = json.loads(config_text)
    round_fn = rounds.make_round(
        algorithm_of(config),
        loss_of(model_config(config["model"])),
        drop_mode=config["drop_mode"],
        diagnose=True,
    )
    return jax.jit(round_fn)


@functools.cache
def compiled_start(model):
    loss_fn = loss_of(model)
    return jax.jit(lambda state, batches: rounds.start_tracking(state, loss_fn, batches))


def algorithm_of(config):
    names = ("gradient_at", "momentum", "reset_every")
    return algorithms.algorithm(config["algorithm"], **{name: config[name] for name in names})


def run_rounds(round_fn, state, inputs, num_rounds):
    history = []
    for t in range(num_rounds):
        state, metrics_of_round = round_fn(state, jax.tree.map(lambda x, t=t: x[t], inputs))
        history.append(metrics_of_round)
    return state, {name: np.stack([m[name] for m in history]) for name in history[0]}


def round_inputs(entry, examples):
    """Numpy inputs of all rounds, leading axis T, and the network (None without one)."""
    config, arrays = entry.config, entry.arrays
    num_rounds, offset = config["rounds"], int(config["algorithm"] == "dsgt")
    rate = schedules.LearningRate(config["lr0"], config["decay"], config["decay_every"])
    rows = arrays["input/batch_index"][offset:]
    active, link_up = (arrays.get(f"input/{name}") for name in ("active", "link_up"))
    net = weights = None
    if "input/W" in arrays:
        net = network.network_of(
            arrays["input/W"],
            change_every=config["change_every"],
            active=active,
            link_up=link_up,
            num_rounds=num_rounds,
            failures=failures.FailureConfig(mode=config["drop_mode"], repair=config["repair"]),
        )
        weights = network.repaired_matrices(net, num_rounds)
    num_users = config["num_users"]
    counts = np.asarray(arrays.get("input/counts", np.ones(num_users, np.int32)), np.float32)
    everybody = np.ones((num_rounds, num_users), bool)
    inputs = rounds.RoundInputs(
        batches=jax.tree.map(lambda x: x[rows], examples),
        weights=weights,
        learning_rate=np.asarray(schedules.learning_rate_at(rate, jnp.arange(num_rounds))),
        active=everybody if active is None else active,
        counts=np.broadcast_to(counts, (num_rounds, num_users)),
    )
    return inputs, net


def federated_run(entry):
    config, arrays = entry.config, entry.arrays
    examples = {"inputs": arrays["input/x"], "labels": arrays["input/labels"]}
    inputs, net = round_inputs(entry, examples)
    algorithm = algorithm_of(config)
    state = rounds.init_state(
        algorithm,
        named(entry, "param/"),
        jax.random.key(0),
        config["num_users"],
        per_user=config["per_user_init"],
    )
    computed = {}
    if config["algorithm"] == "dsgt":
        first = jax.tree.map(lambda x: x[arrays["input/batch_index"][0]], examples)
        start = compiled_start(model_config(config["model"]))
        state, computed["loss0"] = start(state, first)
    shape = ("algorithm", "model", "gradient_at", "momentum", "reset_every", "drop_mode")
    round_fn = compiled_round(json.dumps({name: config[name] for name in shape}))
    state, history = run_rounds(round_fn, state, inputs, config["rounds"])
    computed |= {"loss": history["user_loss"], "consensus_omega": history["consensus_omega"]}
    if net is not None:
        computed["sigma"] = mixing.sigma_of(network.repaired_matrices(net, config["rounds"]))
    models_by_name = {"omega": state.omega}
    if config["algorithm"] == "dacfl":
        models_by_name["x"], computed["consensus_x"] = state.tracker, history["consensus_x"]
    if config["algorithm"] == "dsgt":
        models_by_name["y"] = state.gradient_tracker
    axis = UserAxis(config["num_users"])
    final = rounds.output_models(algorithm, state, axis)
    if config["algorithm"] == "dpsgd":
        models_by_name["mean"] = convert.user_model(final, 0)
    if config["algorithm"] == "fedavg":
        models_by_name = {"w": convert.user_model(final, 0)}
        del computed["consensus_omega"]
    for name, tree in models_by_name.items():
        computed |= {f"{name}/{key}": value for key, value in convert.to_flat(tree).items()}
    return outputs(computed)


def division(entry):
    config, arrays = entry.config, entry.arrays
    labels, perm, num_users = arrays["input/labels"], arrays["input/perm"], config["num_users"]
    match config["scheme"]:
        case "iid":
            parts = partition.iid_from(perm, num_users)
        case "shards":
            shard_perm = arrays["input/shard_perm"]
            assert len(shard_perm) == num_users * config["shards_per_user"]
            parts = partition.shards_from(labels, perm, shard_perm, num_users)
        case "dirichlet":
            shares = arrays["input/proportions"]
            parts = partition.dirichlet_from(labels, perm, shares, config["balance"])
    counts = np.array([len(part) for part in parts])
    return outputs(
        {
            "index": np.concatenate(parts),
            "offsets": np.concatenate([[0], np.cumsum(counts)]),
            "counts": counts,
            "label_histogram": partition.label_histogram(parts, labels, config["num_classes"]),
        }
    )


def measures(entry):
    logits, labels = (jnp.asarray(entry.arrays[f"input/{name}"]) for name in ("logits", "labels"))
    accuracy = metrics.user_accuracy(logits, labels)
    params = named(entry, "input/params/")
    return outputs(
        {
            "acc": accuracy,
            "per_class_acc": metrics.class_accuracy(logits, labels),
            "consensus_distance": metrics.consensus_distance(params, UserAxis(len(logits))),
            **metrics.accuracy_summary(accuracy),
        }
    )


def traffic(entry):
    config = entry.config
    degrees = communication.degrees_of(
        entry.arrays["input/adjacency"], config["rounds"], config["change_every"]
    )
    algorithm = algorithms.algorithm(config["algorithm"])
    sent, received = communication.numbers_moved(algorithm, config["num_params"], degrees)
    return outputs({"numbers_sent": sent, "numbers_received": received})


def noise(entry):
    return outputs(consensus.noise_gain(entry.arrays["input/mu"]))


def learning_rate(entry):
    rate = schedules.LearningRate(**entry.config)
    return outputs({"lr": schedules.learning_rate_at(rate, entry.arrays["input/round"])})


KINDS = {
    "topology": graph,
    "one_peer_exponential": one_peer,
    "mixing_matrix": mixing_matrix,
    "link_repair": link_repair,
    "fodac": dynamic_consensus,
    "model": classifier,
    "run": federated_run,
    "partition": division,
    "metrics": measures,
    "communication": traffic,
    "noise_gain": noise,
    "lr_schedule": learning_rate,
}
