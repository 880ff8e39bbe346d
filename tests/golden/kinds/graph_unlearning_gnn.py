"""Golden kinds of the shard networks: `gnn_batch` (mini-batch blocks) and `gnn_full`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lab.nn.graph import Blocks, EdgeLinks, symmetric_weights, whole_graph
from lab.papers.graph_unlearning import convert, models, steps
from lab.train.state import state_of


def model_of(config: dict) -> models.ModelConfig:
    """The model config that a manifest's `config` describes."""
    common = {"num_classes": config["num_classes"]}
    match config["model"]:
        case "gcn":
            return models.GCNConfig(
                **common,
                hidden=tuple(config["hidden"]),
                activation=config["activation"],
                bias=config["bias"],
                dropout_rate=config["dropout"],
            )
        case "gat":
            return models.GATConfig(
                **common,
                heads=tuple(config["heads"]),
                head_dim=config["head_dim"],
                activation=config["activation"],
                self_loops=config["self_loops"],
                negative_slope=config["negative_slope"],
                dropout_rate=config["dropout"],
                attention_dropout_rate=config["dropout"],
            )
        case "sage":
            return models.SAGEConfig(
                **common,
                hidden=tuple(config["hidden"]),
                activation=config["activation"],
                dropout_rate=config["dropout"],
            )
        case "gin":
            return models.GINConfig(
                **common,
                hidden=(config["hidden"][0],) * config["layers"],
                classifier_hidden=config["classifier_hidden"],
                eps=config["gin_eps"],
                bn_eps=config["bn_eps"],
                bn_momentum=config["bn_momentum"],
                dropout_rate=config["dropout"],
                full_graph="aggregate" not in config,
                unused_layers=sum("conv" in name for name in config.get("unused", ())),
            )
        case "mlp":
            return models.MLPConfig(**common, hidden=tuple(config["hidden"]))
    raise ValueError(f"unknown model {config['model']!r}")


@functools.cache
def forward(model: models.ModelConfig, train: bool):
    """Compiled `(variables, blocks) -> logits`."""
    module = models.build(model)

    def apply(variables, blocks):
        if not train:
            return module.apply(variables, blocks, train=False)
        return module.apply(
            variables,
            blocks,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )[0]

    return jax.jit(apply)


def variables_of(entry, model):
    prefix = "param/"
    state = {k.removeprefix(prefix): v for k, v in entry.arrays.items() if k.startswith(prefix)}
    return convert.from_official(state, model)


def edges(edge_index, num_targets, weights=None) -> EdgeLinks:
    senders, receivers = np.asarray(edge_index, np.int32)
    return EdgeLinks(jnp.asarray(senders), jnp.asarray(receivers), weights, num_targets)


def sampled_blocks(entry, name: str) -> Blocks:
    """The blocks of one of the file's mini-batches."""
    arrays = entry.arrays
    links = []
    for layer in range(entry.config["layers"]):
        block = f"input/{name}/block{layer}"
        weights = None
        if entry.config["edge_weight"]:
            weights = jnp.asarray(entry.other("edge_weight_train")[arrays[f"{block}/e_id"]])
        num_targets = int(arrays[f"{block}/size"][1])
        links.append(edges(arrays[f"{block}/edge_index"], num_targets, weights))
    return Blocks(jnp.asarray(arrays["input/x"][arrays[f"input/{name}/n_id"]]), tuple(links))


def log_softmax(logits):
    return np.asarray(jax.nn.log_softmax(logits))


def gnn_batch(entry):
    return batch_eval(entry) if entry.mode == "eval" else batch_train(entry)


def batch_eval(entry):
    arrays, model = entry.arrays, model_of(entry.config)
    variables, apply = variables_of(entry, model), forward(model, False)
    features, num_nodes = jnp.asarray(arrays["input/x"]), len(arrays["input/x"])
    weighted = bool(entry.config["edge_weight"])
    weights = jnp.asarray(entry.other("edge_weight_full")) if weighted else None
    graph = edges(arrays["input/edge_index"], num_nodes, weights)
    # As many edges as the graph has, all padding: one compilation, and padding must not count.
    empty = graph.replace(receivers=jnp.full_like(graph.receivers, num_nodes))
    logits = apply(variables, whole_graph(features, graph, model.num_layers))
    computed = {
        "output/inference_logits": logits,
        "output/posterior_test_logprob": log_softmax(logits)[~arrays["input/train_mask"]],
        "output/noedge_logits": apply(variables, whole_graph(features, empty, model.num_layers)),
    }
    for name in entry.config["sampling"]:
        blocks = sampled_blocks(entry, name)
        computed[f"output/{name}/eval_logprob"] = log_softmax(apply(variables, blocks))
    return computed


def batch_train(entry):
    arrays, model, train = entry.arrays, model_of(entry.config), entry.config["train"]
    blocks = sampled_blocks(entry, train["batch"])
    size = int(arrays[f"input/{train['batch']}/batch_size"])
    labels = arrays["input/y"][arrays[f"input/{train['batch']}/n_id"][:size]]
    variables = variables_of(entry, model)
    batch = steps.NodeBatch(blocks, jnp.asarray(labels, jnp.int32), jnp.ones(size, bool))
    computed = train_steps(model, variables, batch, train)
    logits = forward(model, True)(variables, blocks)
    computed["output/train_nodrop_logprob"] = log_softmax(logits)
    loss = steps.make_loss(models.build(model))
    state = {k: v for k, v in variables.items() if k != "params"}
    gradient = jax.jit(jax.grad(lambda params: loss(params, state, batch, jax.random.key(0))[0]))
    grads = convert.to_official({"params": gradient(variables["params"]), **state}, model)
    with_gradient = {k.removeprefix("grad/") for k in entry.expected if k.startswith("grad/")}
    return computed | {f"grad/{k}": v for k, v in grads.items() if k in with_gradient}


def train_steps(model, variables, batch, train, full_graph=False):
    """Losses and parameters of `train["steps"]` optimizer steps on one batch."""
    optimizer = steps.OptimizerConfig(train["lr"], train["l2"])
    state = state_of(variables, steps.make_optimizer(model, optimizer), jax.random.key(0))
    step = jax.jit(steps.make_node_step(model, optimizer))
    losses = []
    for _ in range(train["steps"]):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    after = convert.to_official(
        {"params": state.params, **state.model_state}, model, full_graph=full_graph
    )
    named = {f"param_after{train['steps']}/{name}": array for name, array in after.items()}
    return {"output/losses": np.array(losses, np.float32), **named}


def gnn_full(entry):
    arrays, model = entry.arrays, model_of(entry.config)
    variables = variables_of(entry, model)
    features, num_nodes = jnp.asarray(arrays["input/x"]), len(arrays["input/x"])
    links = edges(arrays["input/edge_index"], num_nodes)
    if entry.config["edge_weight"]:
        links = symmetric_weights(links)
    blocks = whole_graph(features, links, model.num_layers)
    if entry.mode == "eval":
        logits = forward(model, False)(variables, blocks)
        probabilities = entry.config["output"] == "probabilities"
        return {"output/eval": jax.nn.softmax(logits) if probabilities else log_softmax(logits)}
    rows = np.asarray(arrays["input/train_mask"])
    labels = jnp.asarray(arrays["input/y"], jnp.int32)
    batch = steps.NodeBatch(blocks, labels, jnp.asarray(rows))
    logits = forward(model, True)(variables, blocks)
    computed = train_steps(model, variables, batch, entry.config["train"], full_graph=True)
    return computed | {"output/train_nodrop_logprob": log_softmax(logits)[rows]}


KINDS = {"gnn_batch": gnn_batch, "gnn_full": gnn_full}
