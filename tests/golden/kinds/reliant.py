"""RELIANT: losses, metrics, graphs, loaders and baselines against the released code."""

import jax
import jax.numpy as jnp
import numpy as np

from lab.data.fair_graphs import read_fair_graph
from lab.data.graphs import clean_edges
from lab.metrics.classification import binary_f1
from lab.metrics.fairness import equal_opportunity_gap, statistical_parity_gap
from lab.metrics.ranking import roc_auc
from lab.papers.reliant import baselines
from lab.papers.reliant.data import prepare
from lab.papers.reliant.features import preprocess, row_l1
from lab.papers.reliant.knowledge import knowledge
from lab.papers.reliant.losses import (
    LEGENDRE_COEFFICIENTS,
    bias,
    kd_loss,
    step_approximation,
)
from lab.papers.reliant.metrics import evaluate
from lab.papers.reliant.objective import bias_groups
from lab.papers.reliant.selection import follow, nothing_yet
from lab.papers.reliant.similarity import official_row_weights, similarity_edges
from tests.golden.reliant_graphs import group, inputs, named


def fair_kd_losses(entry):
    config, arrays = entry.config, inputs(entry)
    probs, teacher = jnp.asarray(arrays["probs"]), jnp.asarray(arrays["teacher_probs"])
    mask = np.zeros(len(probs), bool)
    mask[arrays["idx"]] = True
    values = {}
    for name, key in (("l2", "kd_l2"), ("bce", "kd_bce"), ("kl", "kd_kl_mean")):
        loss, grad = jax.value_and_grad(kd_loss)(probs, teacher, jnp.asarray(mask), name)
        values[f"output/{key}"], values[f"grad/{key}/probs"] = loss, grad
    for metric in ("sp", "eo"):
        groups = bias_groups(arrays["sens"], mask, metric, labels=arrays["labels"])
        loss, grad = jax.value_and_grad(bias)(probs, groups, config["surrogate"])
        values[f"output/fair_{metric}"], values[f"grad/fair_{metric}/probs"] = loss, grad
    grid = jnp.asarray(arrays["s_grid"])
    assert len(LEGENDRE_COEFFICIENTS) == config["legendre_degree"] + 1
    values |= {
        "output/approx_func_64": step_approximation(grid, config["surrogate"]),
        "output/legendre_step_64": step_approximation(grid, "legendre"),
        "output/legendre_coef_64": np.array(LEGENDRE_COEFFICIENTS),
    }
    return {key: values[key] for key in entry.expected}


def fair_metric(entry):
    case, groups = entry.config["case"], entry.config["groups"]
    predictions, labels, sensitive = (
        entry.arrays[f"input/{name}_{case}"] for name in ("pred", "labels", "sens")
    )
    return {
        f"output/parity_{case}": statistical_parity_gap(predictions, sensitive, groups=groups),
        f"output/equality_{case}": equal_opportunity_gap(
            predictions, labels, sensitive, groups=groups
        ),
    }


def utility_metrics(entry):
    case = entry.config["case"]
    logits, labels = entry.arrays[f"input/logits_{case}"], entry.arrays[f"input/labels_{case}"]
    predictions = logits.argmax(axis=1)
    values = {
        f"output/acc_{case}": (predictions == labels).mean(),
        f"output/f1_{case}": binary_f1(predictions, labels),
        f"output/auc_{case}": roc_auc(logits[:, 1] - logits[:, 0], labels),
    }
    return {key: values[key] for key in entry.expected}


def early_stopping(entry):
    config = entry.config
    case, ties_win = config["case"], config["tie_rule"] == "greater_or_equal"
    best, epochs_run = nothing_yet({}), 0
    for epoch, score in enumerate(entry.arrays[f"input/val_acc_{case}"][: config["max_epoch"]]):
        patience = config["patience"]
        best = follow(best, score, jnp.int32(epoch), {}, ties_win=ties_win, patience=patience)
        epochs_run += 1
        if best.stopped:
            break
    return {
        f"output/selected_epoch_{case}": best.epoch,
        f"output/epochs_run_{case}": np.asarray(epochs_run),
    }


def similarity_graph(entry):
    features = entry.arrays["input/features_64"]
    edges = similarity_edges(features, entry.config["threshold"], block_rows=16)
    both = clean_edges(edges, len(features), one_directional="symmetrise")[0]
    weights = official_row_weights(both, len(features)).tocoo()
    order = np.lexsort([weights.col, weights.row])
    return {
        "output/directed_edges": edges.T,
        "output/adj_row": weights.row[order],
        "output/adj_col": weights.col[order],
        "output/adj_row_normalised": weights.data[order],
    }


def feature_row_normalise(entry):
    assert entry.config["norm"] == "row_l1"
    rows = row_l1(entry.arrays["input/feat_64"])
    return {"output/feat_row_normalised": rows.astype(np.float32)}


def graph_loader(entry):
    config = entry.config
    dataset = read_fair_graph(entry.data_path(config["data_file"]), config["dataset"])
    kind = {"row_l1": "l1"}.get(config["preprocessing"], config["preprocessing"])
    features = preprocess(dataset.features, kind)
    row = config["rows"][0]
    sources = dataset.edge_index[0][dataset.edge_index[1] == row]
    weights = official_row_weights(dataset.edge_index, dataset.num_nodes)
    others = weights[[row]].tocoo()
    masks = (dataset.train_mask, dataset.val_mask, dataset.test_mask)
    values = {
        "rows": np.array(config["rows"]),
        "features_rows": features[config["rows"]],
        "degree_with_loop": np.bincount(dataset.edge_index[1], minlength=dataset.num_nodes) + 1,
        "labels": dataset.labels,
        "sens": dataset.sensitive,
        "features_col_sum_64": features.sum(axis=0, dtype=np.float64),
        "split_sizes": np.array([mask.sum() for mask in masks]),
        "neighbours_of_first_row": np.sort(np.append(sources, row)),
        "row_normalised_weight_of_first_row": others.data[others.col != row][0],
    }
    return {
        **named("output", values),
        "config/num_nodes": dataset.num_nodes,
        "config/num_directed_edges_with_loops": dataset.num_edges + dataset.num_nodes,
    }


def teacher_knowledge(entry):
    config = entry.config
    mini = config["subset"] == "mini_nodes"
    path = entry.data_path(config["data_file"])
    dataset = read_fair_graph(path, config["dataset"], mini=mini)
    graph = prepare(dataset, features="official")
    known = knowledge(
        log_probs=entry.arrays["output/log_probs"], embedding=entry.arrays["output/emb"]
    )
    assert known.embedding.shape[1] == config["emb_width"]
    judged = evaluate(known.log_probs, graph)
    assert abs(judged.accuracy - config["test_accuracy"]) <= 1e-4
    return {
        "output/log_probs": known.log_probs,
        "output/emb": known.embedding,
        "output/delta_sp": judged.delta_sp,
        "output/delta_eo": judged.delta_eo,
    }


def fairgnn_terms(entry):
    config, arrays = entry.config, inputs(entry)
    assert config["known_sens"] == "train"
    adversary = group(entry, "param")
    labels, sensitive = jnp.asarray(arrays["labels"]), jnp.asarray(arrays["sens"])
    mask = jnp.zeros(len(labels), bool).at[arrays["idx_train"]].set(True)

    def terms(hidden, scores, weight, bias):
        judged = hidden @ weight.T + bias
        estimate = jnp.asarray(arrays["sens_estimator_logits"])[:, 0]
        return baselines.fairgnn_terms(
            scores[:, 0], estimate, judged[:, 0], labels, sensitive, mask
        )

    def main_loss(*args):
        return baselines.fairgnn_loss(terms(*args), config["alpha"], config["beta"])

    args = tuple(
        jnp.asarray(x)
        for x in (
            arrays["hidden"],
            arrays["class_logits"],
            adversary["adv.weight"],
            adversary["adv.bias"],
        )
    )
    parts, loss = terms(*args), main_loss(*args)
    hidden, scores = jax.grad(main_loss, (0, 1))(*args)
    weight, offset = jax.grad(lambda *a: terms(*a)["adv"], (2, 3))(*args)
    return {
        "output/cov": parts["cov"],
        "output/cls_loss": parts["cls"],
        "output/adv_loss": parts["adv"],
        "output/g_loss": loss,
        "grad/g_loss/hidden": hidden,
        "grad/g_loss/class_logits": scores,
        "grad/a_loss/adv.weight": weight,
        "grad/a_loss/adv.bias": offset,
    }


def nifty_terms(entry):
    arrays, weight = inputs(entry), entry.config["sim_coeff"]
    labels = jnp.asarray(arrays["labels"])
    mask = jnp.zeros(len(labels), bool).at[arrays["idx_train"]].set(True)
    h1, h2, p1, p2, c1, c2 = (jnp.asarray(arrays[n]) for n in ("h1", "h2", "p1", "p2", "c1", "c2"))
    similarity = lambda h1: baselines.nifty_similarity(h1, h2, p1, p2, mask, weight)  # noqa: E731
    loss, grad = jax.value_and_grad(similarity)(h1)
    classes = baselines.nifty_classification(c1[:, 0], c2[:, 0], labels, mask, weight)
    return {"output/sim_loss": loss, "grad/sim_loss/h1": grad, "output/cls_loss": classes}


def nifty_views(entry):
    arrays = inputs(entry)
    first, second = baselines.feature_views(
        jnp.asarray(arrays["features"]),
        jnp.asarray(arrays["drop_mask"]),
        jnp.asarray(arrays["noise"]),
        entry.config["sens_idx"],
    )
    return {"output/features_view1": first, "output/features_view2_flipped": second}


KINDS = {
    "fair_kd_losses": fair_kd_losses,
    "fair_metric": fair_metric,
    "utility_metrics": utility_metrics,
    "early_stopping": early_stopping,
    "similarity_graph": similarity_graph,
    "feature_row_normalise": feature_row_normalise,
    "graph_loader": graph_loader,
    "teacher_knowledge": teacher_knowledge,
    "fairgnn_terms": fairgnn_terms,
    "nifty_terms": nifty_terms,
    "nifty_views": nifty_views,
}
