"""Papers put together: one paper's functions on another's models and data, with no adapter.

    python -m experiments.compositions                      all of them, one after the other
    python -m experiments.compositions.fair_over_network    one, with its options (--help)

Every file here is one composition: `TITLE`, `SUMMARY`, `Config` and `main(config, run) -> Result`.
None needs a file; each takes about a minute of CPU time.
"""

NAMES = (
    "vit_over_network",
    "graph_over_network",
    "drummers_over_network",
    "fair_over_network",
    "forgotten_student",
)
FOLDER = "compositions"  # that the runs lie in, in place of a paper's
