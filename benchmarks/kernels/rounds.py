"""All methods of one workload in turn, so that they meet the same machine."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .workloads import OURS, Workload

ROOT = Path(__file__).parent.parent.parent
SLOW = 5.0  # a call that takes more seconds is not repeated
# One that takes less is made again and again in its turn for as long: what a process
# needs to wake up, and its weights to come to the cache, is not the method's.
TURN = 0.2


@dataclass(frozen=True)
class Timing:
    """One call, in seconds; CPU seconds are those of all threads together."""

    cpu: float
    wall: float


@dataclass
class Measured:
    """What a method took: its first call, which compiles, and the others."""

    method: str
    first: Timing | None = None
    warm: list[Timing] = field(default_factory=list)
    peak_bytes: int = 0
    kernel_bytes: int = 0
    difference: float | None = None
    versions: str = ""
    failure: str = ""


class Worker:
    """A process that computes one thing whenever it is asked."""

    def __init__(self, python: str, workload: Workload, method: str, limit: float):
        self._limit, self._errors = limit, tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [
                python, "-m", workload.worker,
                workload.name, method, str(workload.n), str(workload.batch_size),
            ],
            cwd=ROOT, env=_environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        try:
            self.versions = self._answer()["versions"]
        except BaseException:
            self.close()
            raise

    def ask(self, **request) -> dict:
        """One request, one reply.

        Raises:
            RuntimeError: if the process dies or takes longer than its limit.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: what follows says why
        return self._answer()

    def close(self):
        """End the process, also in the middle of a call."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(self._limit, lambda: (late.set(), self._process.kill()))
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line:
            return json.loads(line)
        if late.is_set():
            raise RuntimeError(f"stopped after {self._limit:g} s")
        self._errors.seek(0)
        last = [text for text in self._errors.read().splitlines() if text.strip()][-1:]
        raise RuntimeError(f"died with {self._process.wait()}: {''.join(last)}")


def measure(
    workload: Workload,
    pythons: Mapping[str, str],
    rate: Worker,
    repeats: int,
    limit: float,
) -> tuple[list[Measured], list[Timing]]:
    """Time one workload.

    Args:
        workload: what to compute, by which methods.
        pythons: the interpreter of each method.
        rate: a worker that multiplies matrices; one product per round.
        repeats: rounds of one warm call of each method; 0 times the first call only.
        limit: seconds after which a call is given up.

    Returns:
        one measurement for each method, ours first, and the matrix products.
    """
    measured = [Measured(method) for method in workload.methods]
    workers: dict[str, Worker] = {}
    products = []

    def attempt(one: Measured, step: Callable[[Measured], None]):
        if not one.failure:
            if sys.stderr.isatty():
                line = f"{workload.name}: {one.method}"
                print(f"{line:<32}", end="\r", file=sys.stderr, flush=True)
            try:
                step(one)
            except RuntimeError as error:
                one.failure = str(error)

    def start(one: Measured):
        worker = Worker(pythons[one.method], workload, one.method, limit)
        workers[one.method], one.versions = worker, worker.versions
        one.first = call(one)

    def call(one: Measured, seconds: float = 0.0) -> Timing:
        reply = workers[one.method].ask(do="time", seconds=seconds)
        one.peak_bytes, one.kernel_bytes = reply["peak"], reply["kernel"]
        return Timing(reply["cpu"], reply["wall"])

    def again(one: Measured):
        if not (one.warm and one.warm[-1].wall > SLOW):
            one.warm.append(call(one, TURN))

    try:
        for one in measured:
            attempt(one, start)
        for _ in range(max(repeats, 1)):
            reply = rate.ask(do="time")
            products.append(Timing(reply["cpu"], reply["wall"]))
            for one in measured if repeats else ():
                attempt(one, again)
        if len(measured) > 1:
            with tempfile.TemporaryDirectory() as folder:
                save = lambda one: _save(workers[one.method], workload, one, folder)
                for one in measured:
                    attempt(one, save)
                _compare(measured, folder)
    finally:
        for worker in workers.values():
            worker.close()
    return measured, products


def _path(folder: str, method: str) -> str:
    return os.path.join(folder, method.replace(" ", "_") + ".npy")


def _save(worker: Worker, workload: Workload, one: Measured, folder: str):
    worker.ask(do="save", n=workload.check_n, path=_path(folder, one.method))


def _compare(measured: list[Measured], folder: str):
    """Relative Frobenius distance of each peer's kernel from ours."""
    if any(one.method == OURS and one.failure for one in measured):
        return
    ours = np.load(_path(folder, OURS)).astype(np.float64)
    for one in measured:
        if one.method != OURS and not one.failure:
            other = np.load(_path(folder, one.method)).astype(np.float64)
            one.difference = relative_difference(ours, other)


def relative_difference(ours: np.ndarray, other: np.ndarray) -> float:
    """Frobenius norm of the difference over that of `other`; 1 for another shape."""
    if ours.shape != other.shape:
        return 1.0
    return float(np.linalg.norm(ours - other) / np.linalg.norm(other))


def _environment() -> dict[str, str]:
    """Default settings of JAX on the CPU, whatever the caller's shell says."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_", "PYTHON"))
    }
    return kept | {"JAX_PLATFORMS": "cpu"}
