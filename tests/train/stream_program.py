"""A small streaming training with all that could depend on the number of devices.

As a program it is run in processes of their own: killed and resumed, on eight devices, on two
hosts; it writes what it computed.
"""

import argparse
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lab.data.augment import MixConfig, mixed, random_flip, smooth_one_hot
from lab.data.streams import ArraySource, stream
from lab.train import Aux, Checkpoints, fit, init_state, make_train_step, mean_over
from lab.train import start_distributed as start
from lab.train.devices import example_keys

AXIS = "batch"


class Net(nn.Module):
    """Dense, synchronised BatchNorm, dropout by example, Dense."""

    axis_name: str | None

    @nn.compact
    def __call__(self, x, keep, train):
        x = nn.Dense(16, use_bias=False)(x.reshape(x.shape[0], -1))
        x = nn.BatchNorm(
            use_running_average=not train, axis_name=self.axis_name if train else None
        )(x)
        return nn.Dense(3)(nn.relu(x) * keep)


def make_step():
    """Returns (state, step) of batches {"image", "label", "mask"}."""
    model, tx = Net(AXIS), optax.adamw(1e-2)

    def loss_fn(params, model_state, batch, key):
        flip_key, drop_key, mix_key = jax.random.split(key, 3)
        size = batch["image"].shape[0]
        images = random_flip(example_keys(flip_key, size), batch["image"])
        targets = smooth_one_hot(batch["label"], 3, 0.1)
        images, targets = mixed(
            mix_key, images, targets, MixConfig(), mask=batch["mask"], axis_name=AXIS
        )
        keys = example_keys(drop_key, size)
        keep = jax.vmap(lambda k: jax.random.bernoulli(k, 0.7, (16,)))(keys) / 0.7
        variables = {"params": params, **model_state}
        logits, model_state = model.apply(
            variables, images, keep, train=True, mutable=["batch_stats"]
        )
        losses = optax.losses.softmax_cross_entropy(logits, targets)
        return mean_over(losses, batch["mask"], AXIS), Aux({}, model_state)

    images = jnp.zeros((8, 4, 4, 1))
    state = init_state(Net(None), tx, jax.random.key(0), images, jnp.ones((8, 16)), train=False)
    return state, make_train_step(loss_fn, tx, axis_name=AXIS)


def make_stream(**options):
    """Batches of 16 of 44 examples: every third one is ragged, with four rows of padding."""
    rng = np.random.default_rng(0)
    source = ArraySource(
        {
            "image": rng.normal(size=(44, 4, 4, 1)).astype(np.float32),
            "label": rng.integers(0, 3, 44),
        }
    )
    return stream(source, 16, drop_remainder=False, **options)


def named(state) -> dict[str, np.ndarray]:
    """The parameters and running statistics by name."""
    tree = {"params": state.params, "model_state": state.model_state}
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--save-every", type=int, default=3)
    parser.add_argument("--keep", type=int)
    parser.add_argument("--host", type=int)
    parser.add_argument("--port", type=int)
    parser.add_argument("--across", action="store_true", help="all devices, one, and crossings")
    args = parser.parse_args()
    if args.host is not None:
        start(f"127.0.0.1:{args.port}", 2, args.host)
    state, step = make_step()

    def train(folder, devices=None):
        saved = Checkpoints(args.folder / folder, keep=args.keep)
        settings = {"num_steps": args.steps, "save_every": args.save_every}
        return fit(step, state, make_stream(), devices=devices, checkpoints=saved, **settings)

    if args.across:
        one, every = jax.devices()[:1], jax.devices()
        results = {"one": train("one", one), "every": train("every", every)}
        for folder, to in (("one", every), ("every", one)):
            saved = Checkpoints(args.folder / folder, keep=None)
            half = Checkpoints(args.folder / f"from-{folder}", keep=None)
            half.save(3, saved.restore(state, 3), position=saved.note(3)["position"])
            results[f"from-{folder}"] = train(f"from-{folder}", to)
    else:
        results = {f"host{args.host or 0}": train("saved")}
    for name, result in results.items():
        np.savez(args.folder / f"{name}.npz", loss=result.metrics["loss"], **named(result.state))


if __name__ == "__main__":
    main()
