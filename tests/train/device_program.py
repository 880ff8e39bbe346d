"""Run by test_devices.py in a process with a forced number of devices; writes what it computed."""

import sys

import jax
import numpy as np

from lab.train import Checkpoints, compile, compile_copies
from tests.train.toy import toy_batches, toy_step


def main(out: str, checkpoint: str) -> None:
    state, step = toy_step()
    compiled = compile(step)
    placed, losses = compiled.place(state), []
    for batch in toy_batches():
        placed, metrics = compiled(placed, compiled.split(batch))
        losses.append(float(compiled.fetch(metrics)["loss"]))
    final = compiled.fetch(placed)
    Checkpoints(checkpoint).save(len(losses), final)

    copies = compile_copies(lambda x: (x * 2, x.sum()))(np.arange(30.0).reshape(10, 3))
    in_turn = compile_copies(lambda x, y: x * y, (0, None), in_turn=True)(copies[0][:5], 2.0)
    weights = {
        jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(final.params)
    }
    stats = {
        jax.tree_util.keystr(p): x
        for p, x in jax.tree_util.tree_leaves_with_path(final.model_state)
    }
    np.savez(
        out,
        losses=losses,
        doubled=copies[0],
        sums=copies[1],
        in_turn=in_turn,
        devices=jax.device_count(),
        **weights,
        **stats,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
