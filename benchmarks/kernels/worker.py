"""One method on one workload, in a process of its own.

    python -m benchmarks.kernels.worker WORKLOAD METHOD N BATCH_SIZE

It answers requests on its standard input, one JSON object per line, in kind:

    {"do": "time"}                      one call: CPU and wall seconds, peak memory
    {"do": "time", "seconds": 0.2}      calls for as long, and what one of them takes
    {"do": "save", "n": 9, "path": p}   the kernel of the first 9 examples, as .npy
"""

import importlib
import json
import os
import resource
import sys
import time

import jax
import numpy as np

from .workloads import INCUMBENT, OURS, Workload, by_name, resized

# Imported by name: neither environment holds what the other side needs.
_MODULES = {OURS: "ours", "per leaf": "plain", "rate": "product"}
_MODULES |= dict.fromkeys(INCUMBENT, "incumbent")


def main(name: str, method: str, n: str, batch_size: str):
    """Answer until the input ends."""
    workload = resized(by_name(name), int(n), int(batch_size))
    serve(f"{__package__}.{_MODULES[method]}", workload, method)


def serve(module_name: str, workload: Workload, method: str):
    """Answer with what a module's `prepare` makes of a workload."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not reach the answers
    module = importlib.import_module(module_name)
    jax.block_until_ready(jax.numpy.zeros(()))  # a backend belongs to the imports
    imported = _peak_bytes()

    def answer(**reply):
        print(json.dumps(reply), file=answers, flush=True)

    kernel_at = module.prepare(workload, method)
    compute, kernel = kernel_at(workload.n), None
    answer(versions=_versions())
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "time":
            n_bytes = calls = 0
            cpu, wall = time.process_time(), time.perf_counter()
            while not calls or time.perf_counter() - wall < request.get("seconds", 0):
                kernel = None  # two at once would count as memory of the method
                kernel = jax.block_until_ready(compute())
                n_bytes, calls = kernel.nbytes, calls + 1
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            answer(
                cpu=cpu / calls, wall=wall / calls,
                kernel=n_bytes, peak=_peak_bytes() - imported,
            )  # fmt: skip
        else:
            if request["n"] != workload.n or kernel is None:
                kernel = kernel_at(request["n"])()
            np.save(request["path"], np.asarray(kernel))
            answer()


def _peak_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def _versions() -> str:
    names = ("equintk", "neural_tangents", "equinox", "jax")
    loaded = [(name, sys.modules.get(name)) for name in names]
    return ", ".join(f"{name} {m.__version__}" for name, m in loaded if m is not None)


if __name__ == "__main__":
    main(*sys.argv[1:])
