"""RELIANT: teachers, students and whole steps against the released code."""

import jax
import jax.numpy as jnp
import numpy as np

from lab.papers.reliant.config import StudentConfig, coupled_adam
from lab.papers.reliant.convert import from_official, to_official
from lab.papers.reliant.knowledge import TeacherKnowledge, knowledge
from lab.papers.reliant.losses import (
    bias,
    discriminator_terms,
    generator_terms,
    node_cross_entropy,
    weighted_total,
)
from lab.papers.reliant.metrics import evaluate
from lab.papers.reliant.models import (
    PLP,
    SGC,
    PLPConfig,
    SGCConfig,
    judge_logits,
    judge_nodes,
    judge_pairs,
    view_of,
)
from lab.papers.reliant.objective import FairnessConfig, mean_proxy
from lab.papers.reliant.steps import (
    distillation_loss,
    make_epoch,
    make_task,
    selected_logits,
    state_from,
    student_outputs,
)
from lab.papers.reliant.teachers import TeacherConfig, build_teacher
from tests.golden.reliant_graphs import graph_of, group, inputs, link_order, named

PROXY_MODES = {0: "none", 1: "sensitive", 2: "learned"}


def student_plp(entry):
    config, arrays = entry.config, inputs(entry)
    graph = graph_of(arrays, config["num_classes"])
    module = PLP(_plp_config(config), config["num_classes"])
    variables = from_official(group(entry, "param"), "plp")
    logits, steps = jax.jit(
        lambda v: module.apply(
            v,
            graph.links,
            graph.features,
            jnp.asarray(arrays["labels_init"]),
            graph.train_mask,
            train=False,
            return_steps=True,
        )
    )(variables)
    values = {
        "output/logits": logits,
        "output/attention_edge": steps["attention"][link_order(arrays, graph)],
        "output/lr_ratio": steps["mixing"],
        "output/el": steps["scores"],
        "output/h_layers": steps["states"],
        "output/log_probs": jax.nn.log_softmax(logits),
    }
    values |= {f"output/conv_{i}": x for i, x in enumerate(steps["mixed"])}
    return {key: values[key] for key in entry.expected}


def _plp_config(config):
    return PLPConfig(
        num_layers=config["num_layers"],
        emb_dim=config["emb_dim"],
        mlp_layers=config["mlp_layers"],
        feat_drop=config["feat_drop"],
        attn_drop=config["attn_drop"],
    )


def student_sgc(entry):
    config, arrays = entry.config, inputs(entry)
    graph = graph_of(arrays)
    module = SGC(_sgc_config(config), config["num_classes"])
    variables = from_official(group(entry, "param"), "sgc")

    def forward(variables):
        return module.apply(variables, graph.links, graph.features, graph.aggregate, train=False)

    def weighed(variables):
        logits, emb = forward(variables)
        return jnp.sum(logits * arrays["cotangent"]), (logits, emb)

    grads, (logits, emb) = jax.jit(jax.grad(weighed, has_aux=True))(variables)
    gradients = named("grad", to_official(grads, "sgc"))
    return {"output/logits": logits, "output/emb": emb, **gradients}


def _sgc_config(config):
    return SGCConfig(config["hidden"], tuple(config["propagation_powers"]), config["dropout"])


def cpf_steps(entry):
    config, arrays = entry.config, inputs(entry)
    is_fair = config["metric"] != "none"
    fairness = FairnessConfig(
        metric=config["metric"],
        proxy_mode=PROXY_MODES[config["proxy_mode"]],
        proxy_input="replace_last_two" if is_fair else "append",
        step_approx=config["surrogate"],
    )
    student = StudentConfig(
        "cpf",
        fairness,
        alpha=config["alpha"],
        plp=_plp_config(config),
        learning_rate=config["lr"],
        proxy_learning_rate=config["lr"],
        weight_decay=config["weight_decay"],
        kd_loss={"frobenius_l2": "l2"}[config["kd_loss"]],
        round_teacher=None,
    )
    graph = graph_of(arrays)
    task = make_task(student, graph, knowledge(probs=arrays["teacher_probs"]))
    params = {
        "student": from_official(group(entry, "param"), "plp")["params"],
        "proxy": jnp.asarray(arrays["proxy"]) if is_fair else None,
        "critics": None,
    }
    start = state_from(student, task, params, jax.random.key(0))
    epoch = make_epoch(student)

    def body(state, _):
        state, metrics = epoch(state, task)
        proxy = state.params["proxy"]
        mean = None if proxy is None else mean_proxy(proxy)
        logits, _ = student_outputs(student, task, state.params["student"], mean, None)
        return state, (metrics, jax.nn.log_softmax(logits))

    @jax.jit
    def everything(state):
        final, (metrics, log_probs) = jax.lax.scan(body, state, length=config["steps"])
        return final, metrics, log_probs, _first_losses(student, task, state)

    final, metrics, log_probs, (kd, fair, proxy_bias) = everything(start)
    after = to_official({"params": final.params["student"]}, "plp")
    values = {
        "output/kd_loss0": kd,
        "output/fair_loss0": fair,
        "output/proxy_bias0": proxy_bias,
        "output/student_losses": metrics["loss"],
        "output/proxy_losses": metrics.get("proxy_loss"),
        "output/proxy_after": final.params["proxy"],
        "output/val_acc": metrics["val_accuracy"],
        "output/val_kd_loss": metrics["val_loss"],
        "output/log_probs_eval": log_probs,
        **named("param_after", after),
        # Nothing reads or trains it.
        "param_after/alpha": entry.arrays["param/alpha"],
    }
    return {key: values[key] for key in entry.expected}


def _first_losses(student, task, state):
    """(distillation, bias at the mean proxy, bias at the own proxies) at the start."""
    proxy = state.params["proxy"]
    mean = None if proxy is None else mean_proxy(proxy)
    logits, _ = student_outputs(student, task, state.params["student"], mean, None)
    distance = distillation_loss(student, task, logits)
    if proxy is None:
        return distance, None, None
    own, _ = student_outputs(student, task, state.params["student"], proxy, None)
    return (
        distance,
        bias(jax.nn.softmax(logits), task.student_groups),
        bias(jax.nn.softmax(own), task.proxy_groups),
    )


def akd_losses(entry):
    config, arrays = entry.config, inputs(entry)
    graph = graph_of(arrays)
    links, pairs, mask = graph.links, graph.pairs, graph.train_mask
    params = from_official(group(entry, "param"), "discriminators")["params"]
    teacher, student = (
        view_of(jnp.asarray(arrays[f"{name}_logits"]), jnp.asarray(arrays[f"{name}_emb"]), pairs)
        for name in ("teacher", "student")
    )
    rest = (links, pairs, teacher, student, graph.labels, mask)
    d = discriminator_terms(params, *rest)
    g = generator_terms(params, *rest)
    fixed = generator_terms(params, *rest, kind="fixed")
    weight, order = config["logit_weight"], link_order(arrays, graph)
    values = {
        "teacher_summary": teacher.summary[:, None],
        "student_summary": student.summary[:, None],
    }
    for name, view in (("teacher", teacher), ("student", student)):
        values[f"logits_D_{name}"] = judge_logits(params["logits"], view.logits)
        scores = judge_pairs(params["local"], links, pairs, view)
        values[f"local_D_{name}"] = scores[pairs.of_link][order][:, None]
        for letter, of in (("t", teacher), ("s", student)):
            judged = judge_nodes(params["global"], view.rows, of.summary)
            values[f"global_D_{name}_{letter}sum"] = judged[:, None]
    values |= {
        "D_logit_adv": d["logit_adversarial"],
        "D_logit_cls": d["logit_class"],
        "D_local": d["local"],
        "D_global_tsum": d["teacher_summary"],
        "D_global_ssum": d["student_summary"],
        "D_total": weighted_total(d, weight),
        "G_label": g["label"],
        "G_logit_adv": g["logit_adversarial"],
        "G_logit_cls": g["logit_class"],
        "G_l1": g["l1"],
        "G_local": g["local"],
        "G_global_tsum": g["teacher_summary"],
        "G_global_ssum_official": g["student_summary"],
        "G_global_ssum_fixed": fixed["student_summary"],
        "G_total_official": weighted_total(g, weight),
    }
    return named("output", values)


def akd_steps(entry):
    config, arrays = entry.config, inputs(entry)
    mode = PROXY_MODES[config["proxy_mode"]]
    student = StudentConfig(
        "akd",
        FairnessConfig(
            metric="none" if mode == "none" else config["metric"],
            proxy_mode=mode,
            step_approx=config["surrogate"],
        ),
        alpha=config["alpha"],
        sgc=_sgc_config(config),
        learning_rate=config["student_lr"],
        proxy_learning_rate=config["lr"],
        critic_learning_rate=config["lr"],
        weight_decay=config["weight_decay"],
        akd_g_loss=config["global_loss"],
        d_critic=config["d_critic"],
        g_critic=config["g_critic"],
    )
    graph = graph_of(arrays)
    teacher = TeacherKnowledge(
        jnp.asarray(arrays["teacher_logits"]), jnp.asarray(arrays["teacher_emb"])
    )
    task = make_task(student, graph, teacher)
    state_dict = group(entry, "param")
    critics = {k: v for k, v in state_dict.items() if "_D." in k}
    proxy = _starting_proxy(student, graph, arrays)
    params = {
        "student": from_official(_without(state_dict, critics), "sgc")["params"],
        "proxy": proxy,
        "critics": from_official(critics, "discriminators")["params"],
    }
    start = state_from(student, task, params, jax.random.key(0))
    epoch = make_epoch(student)

    @jax.jit
    def everything(state):
        final, metrics = jax.lax.scan(
            lambda state, _: epoch(state, task), state, length=config["steps"]
        )
        mean = None if proxy is None else mean_proxy(final.params["proxy"])
        logits, _ = student_outputs(student, task, final.params["student"], mean, None)
        return final, metrics, logits

    final, metrics, logits = everything(start)
    judged = evaluate(final.best.value["logits"], graph, warn=False)
    values = {
        "output/d_losses": metrics["d_loss"],
        "output/g_losses": metrics["loss"],
        "output/proxy_losses": metrics.get("proxy_loss"),
        "output/proxy_after": final.params["proxy"],
        "output/best_val_acc": metrics["val_accuracy"][final.best.epoch],
        "output/test_acc": judged.accuracy,
        "output/parity": judged.delta_sp,
        "output/equality": judged.delta_eo,
        "output/logits_eval_after": logits,
        **named("param_after", to_official({"params": final.params["student"]}, "sgc")),
        **named("param_after", to_official({"params": final.params["critics"]}, "discriminators")),
    }
    assert selected_logits(student, final, task).shape == logits.shape
    return {key: np.asarray(values[key]) for key in entry.expected}


def _without(arrays, others):
    return {k: v for k, v in arrays.items() if k not in others}


def _starting_proxy(student, graph, arrays):
    if "proxy" in arrays:
        return jnp.asarray(arrays["proxy"])
    if student.fairness.proxy_mode == "none":
        return None
    sensitive = graph.sensitive.astype(jnp.float32)
    return jnp.stack([sensitive, 1 - sensitive], axis=1)


def teacher(entry):
    config, arrays = entry.config, inputs(entry)
    graph = graph_of(arrays, config["num_classes"])
    module = build_teacher(
        TeacherConfig(
            config["arch"], config["num_layers"], config["hidden"], dropout_rate=config["dropout"]
        ),
        config["num_classes"],
    )
    params = from_official(group(entry, "param"), config["arch"])["params"]
    tx = coupled_adam(config["lr"], config["weight_decay"])

    def outputs(params):
        return module.apply(
            {"params": params}, graph.links, graph.features, graph.aggregate, train=False
        )

    def loss_fn(params):
        return node_cross_entropy(outputs(params)[0], graph.labels, graph.train_mask)

    def step(carry, _):
        params, opt_state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
        return (params, opt_state), (loss, grads)

    @jax.jit
    def everything(params):
        before = outputs(params)
        (after, _), (losses, grads) = jax.lax.scan(
            step, (params, tx.init(params)), length=config["steps"]
        )
        return before, losses, jax.tree.map(lambda x: x[0], grads), after, outputs(after)[0]

    (logits, emb), losses, grads, after, logits_after = everything(params)
    return {
        "output/logits": logits,
        "output/emb": emb,
        "output/loss": losses[0],
        "output/step_losses": losses,
        "output/logits_after": logits_after,
        **named("grad", to_official({"params": grads}, config["arch"])),
        **named("param_after", to_official({"params": after}, config["arch"])),
    }


KINDS = {
    "teacher": teacher,
    "student_plp": student_plp,
    "student_sgc": student_sgc,
    "cpf_steps": cpf_steps,
    "akd_losses": akd_losses,
    "akd_steps": akd_steps,
}
