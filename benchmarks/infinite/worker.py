"""One method on one workload, in a process of its own: see `kernels.worker`."""

import sys

from benchmarks.kernels.worker import serve
from benchmarks.kernels.workloads import resized

from .workloads import METHODS, WORKLOADS


def main(name: str, method: str, n: str, batch_size: str):
    """Answer until the input ends."""
    (workload,) = (w for w in WORKLOADS if w.name == name)
    workload = resized(workload, int(n), int(batch_size))
    serve(f"{__package__}.{METHODS[method]}", workload, method)


if __name__ == "__main__":
    main(*sys.argv[1:])
