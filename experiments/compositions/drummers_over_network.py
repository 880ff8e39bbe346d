"""DACFL x drums: drummers who each play a few styles agree on one language model of grooves.

python -m experiments.compositions.drummers_over_network
"""

import dataclasses
import functools

import jax
import numpy as np

from experiments.compositions.launch import launch
from experiments.compositions.ring import ring, users_table
from lab.nn.decoder import DecoderConfig, init_params
from lab.papers import dacfl, drums
from lab.report import Result, Run

TITLE = "Drummers over a network"
SUMMARY = "DACFL trains one language model of drums over users who each know a few styles only."


@dataclasses.dataclass(frozen=True)
class Config:
    """How many grooves and users, how long, how large a model."""

    num_grooves: int = 200
    """Grooves of the embedded library, in all its styles in turn; a fifth is held out."""
    num_users: int = 5
    """Users on a ring, each with its own styles."""
    num_rounds: int = 150
    """Rounds, one step each."""
    learning_rate: float = 5e-3
    """Of AdamW."""
    width: int = 32
    """Of the decoder, which has two blocks."""
    algorithms: tuple[str, ...] = ("dacfl", "local", "centralised")
    """Of `dacfl.ALGORITHMS`, on the same batches."""
    seed: int = 0
    """Of everything."""


def main(config: Config, run: Run) -> Result:
    """Trains over the network, alone and in one place; scores every style's held-out grooves."""
    tokenizer = drums.LineTokenizer()
    rows = drums.windows(drums.library_rows(config.num_grooves, num_bars=6), 2)
    texts = drums.padded(drums.encode_rows(rows, tokenizer), tokenizer.pad_id)
    model = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        context=texts["ids"].shape[1],
        width=config.width,
        num_layers=2,
        num_heads=4,
    )
    loss_fn = functools.partial(drums.prompt_weighted_loss, model)
    style = np.unique([row.name.rpartition("_")[0] for row in rows], return_inverse=True)[1]
    is_test = np.arange(len(rows)) % 5 == 4
    parts = [
        np.flatnonzero(~is_test & (style % config.num_users == user))
        for user in range(config.num_users)
    ]
    done = dacfl.simulate(
        config.algorithms,
        loss_fn,
        init_params(model, jax.random.key(config.seed)),
        dacfl.federated_data(
            texts, parts, ring(config.num_users), {name: x[is_test] for name, x in texts.items()}
        ),
        dacfl.Protocol(
            config.num_rounds,
            batch_size=8,
            learning_rate=dacfl.LearningRate(config.learning_rate, 1.0),
        ),
        jax.random.key(config.seed),
        evaluate=dacfl.loss_evaluation(loss_fn),
        tx=drums.optimizer(1.0),
    )
    title, says = "Held-out grooves of all styles", "nats a token"
    table = users_table(title, done, "completion_nll", says, is_loss=True)
    return Result(TITLE, SUMMARY, tables=[table])


if __name__ == "__main__":
    raise SystemExit(launch("drummers_over_network"))
