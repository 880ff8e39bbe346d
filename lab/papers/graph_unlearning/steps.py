"""One training step of one shard model, and its optimizer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from lab.errors import require
from lab.nn.graph import Blocks
from lab.papers.graph_unlearning.losses import node_loss
from lab.papers.graph_unlearning.models import ModelConfig, build, trainable
from lab.train.state import Aux
from lab.train.steps import LossFn, Step, make_train_step


class NodeBatch(struct.PyTreeNode):
    """Nodes to classify.

    Attributes: graph, the blocks whose last targets are the nodes; labels int32 [targets]; mask
    bool [targets], the nodes that count in the loss.
    """

    graph: Blocks
    labels: jax.Array
    mask: jax.Array


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam with PyTorch's defaults.

    Attributes:
      learning_rate: the step size.
      l2: coefficient of the L2 term that is added to the gradient (coupled, not AdamW).
    """

    learning_rate: float = 0.01
    l2: float = 0.0


# The official networks' own values; the official command line's `train_lr` and
# `train_weight_decay` have no effect.
OPTIMIZERS = {
    "sage": OptimizerConfig(0.01, 0.001),
    "gat": OptimizerConfig(0.01, 0.001),
    "gcn": OptimizerConfig(0.05, 0.0001),
    "gin": OptimizerConfig(0.01, 0.0001),
    "mlp": OptimizerConfig(0.01, 0.0),
    "full_gat": OptimizerConfig(0.005, 0.0001),
    "full_gcn": OptimizerConfig(0.01, 0.0),
    "full_gin": OptimizerConfig(0.01, 0.0),
}


def make_optimizer(model: ModelConfig, config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam on gradient + L2, the L2 only on parameters that get a gradient."""
    require(config.learning_rate > 0, f"learning_rate must be positive, got {config.learning_rate}")
    require(config.l2 >= 0, f"l2 must not be negative, got {config.l2}")
    adam = optax.adam(config.learning_rate)
    if config.l2 == 0:
        return adam
    decay = optax.add_decayed_weights(config.l2, mask=lambda params: trainable(model, params))
    return optax.chain(decay, adam)


def make_loss(module: nn.Module, *, train: bool = True) -> LossFn:
    """`(params, model_state, NodeBatch, key) -> (loss, Aux)` with the accuracy as a metric.

    Args: train=False switches dropout and batch statistics off, as the official code does from the
      second epoch on.
    """

    def loss_fn(params, model_state, batch, key):
        variables = {"params": params, **model_state}
        logits, model_state = module.apply(
            variables,
            batch.graph,
            train=train,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        correct = (jnp.argmax(logits, axis=-1) == batch.labels) & batch.mask
        accuracy = correct.sum() / jnp.maximum(batch.mask.sum(), 1)
        return node_loss(logits, batch.labels, batch.mask), Aux({"accuracy": accuracy}, model_state)

    return loss_fn


def make_node_step(model: ModelConfig, optimizer: OptimizerConfig, *, train: bool = True) -> Step:
    """`step(state, NodeBatch) -> (state, metrics)` for a model and its optimizer."""
    return make_train_step(make_loss(build(model), train=train), make_optimizer(model, optimizer))
