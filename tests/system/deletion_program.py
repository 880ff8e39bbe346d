"""A sender of deletion requests, run and killed by test_deletion_kill.py."""

import sys

from lab.papers.graph_unlearning.service import open_service
from tests.system.test_deletion_kill import DATASET, requested_nodes


def main(folder: str) -> None:
    with open_service(folder, DATASET) as service:
        service.serve()  # what a kill interrupted
        print("open", flush=True)
        for number, node in enumerate(requested_nodes(service.ensemble)):
            service.submit(f"request-{number}", nodes=[node])
            service.serve()
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
