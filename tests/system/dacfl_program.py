"""Run by test_dacfl_devices.py in processes with forced devices; writes what it computed.

python -m tests.system.dacfl_program OUT [COORDINATOR NUM_PROCESSES PROCESS_ID]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from lab.papers import dacfl
from lab.train.devices import dividing_devices, start_distributed
from tests.papers.dacfl import tiny

NUM_USERS, NUM_ROUNDS = 8, 6
PROTOCOL = dacfl.Protocol(
    NUM_ROUNDS, 4, learning_rate=dacfl.LearningRate(0.1), log_every=3, chunk_periods=1
)
FAILURES = dacfl.FailureConfig(link_loss=0.2, outages=((1, 2, 2),))
RING = dacfl.NetworkConfig(dacfl.TopologyConfig("ring"), failures=FAILURES)
SPARSE = dacfl.NetworkConfig(dacfl.TopologyConfig("density"), change_every=2)
# (network, whether as neighbour tables, algorithms): exchanges, gathers and table look-ups.
CASES = {
    "exchange": (RING, False, ("dacfl", "dsgt")),
    "gather": (SPARSE, False, ("dacfl", "fedavg", "centralised")),
    "table": (RING, True, ("dacfl",)),
}


def data(config, seed, sparse):
    network = dacfl.draw_network(config, NUM_USERS, seed, NUM_ROUNDS, sparse=sparse)
    parts = np.split(np.arange(120), NUM_USERS)
    return dacfl.federated_data(tiny.examples(), parts, network, tiny.examples())


def run(config, sparse, algorithms):
    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    params = jax.tree.map(lambda a, b: jnp.stack([a, b]), tiny.params(0), tiny.params(1))
    simulation = dacfl.Simulation(
        algorithms,
        tiny.LOSS,
        PROTOCOL,
        evaluate=tiny.EVALUATE,
        num_copies=2,
    )
    copies = dacfl.stack_copies([data(config, seed, sparse) for seed in (0, 1)])
    return simulation.run(params, copies, keys)


def main(out, coordinator=None, num_processes=1, process_id=0):
    if coordinator:
        start_distributed(coordinator, int(num_processes), int(process_id))
    arrays = {"devices": len(dividing_devices(NUM_USERS)), "processes": jax.process_count()}
    for case, settings in CASES.items():
        done = run(*settings)
        for algorithm, state in done.states.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path((state.omega, state.tracker)):
                arrays[f"{case}/{algorithm}{jax.tree_util.keystr(path)}"] = leaf
            for metric, values in done.history[algorithm].items():
                arrays[f"{case}/{algorithm}/{metric}"] = values
    if jax.process_index() == 0:
        np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
