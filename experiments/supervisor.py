"""The engine that gives each job a process of its own, so that one that dies is alone.

A process is started anew, never forked: JAX hangs in forks. It gets its job through
its input, and ends itself when that closes, so that none outlives the sweep.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from experiments import console, progress, tree

_SECONDS_TO_STOP = 20.0
_LINES_OF_THE_DEAD = 12


def launch(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    jobs: Sequence[Sequence[str]],
    first: int,
    n_jobs: int,
) -> list[JobReturn]:
    """Run jobs, `n_jobs` processes at a time.

    Args:
        context: Hydra's.
        task: what a job does with its config; found again by its name.
        config: of the sweep.
        jobs: the overrides of each job.
        first: the number of the first.
        n_jobs: how many processes compute at once.

    Returns:
        what each job returned; of one whose process died, how.
    """
    directory = Path(config.hydra.sweep.dir)
    directory.mkdir(parents=True, exist_ok=True)
    returned: list[JobReturn | None] = [None] * len(jobs)
    waiting = list(range(len(jobs)))[::-1]
    running: dict[int, _Child] = {}
    with console.sweep_progress(_record(directory)) as show:
        try:
            while waiting or running:
                while waiting and len(running) < n_jobs:
                    i = waiting.pop()
                    composed = context.config_loader.load_sweep_config(
                        config, list(jobs[i])
                    )
                    with open_dict(composed):
                        composed.hydra.job.id = composed.hydra.job.num = first + i
                    log = directory / f"job-{first + i}.log"
                    running[i] = _Child((context, task, composed), log, show.line)
                for i, child in list(running.items()):
                    if child.has_ended():
                        del running[i]
                        returned[i] = child.result()
                        if returned[i].status is not JobStatus.COMPLETED:  # type: ignore
                            show.line(child.obituary(jobs[i]))
                show.update()
                time.sleep(0.05)
        except BaseException:
            _stop(list(running.values()))
            raise
    return [job for job in returned if job is not None]


class _Child:
    """The process of one job."""

    def __init__(self, job: Any, log: Path, tell: Callable[[str], None]):
        self._log = log
        self._tell = tell
        # Where modules were found by this process, they are found by its children.
        paths = [str(Path(path).resolve()) for path in sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self._answer, end = os.pipe()
        with open(log, "w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "experiments.supervisor", str(end)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                pass_fds=[end], env=environment,
            )  # fmt: skip
        os.close(end)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()

    def _read(self) -> None:
        """Tell what the process prints, and keep it beside its errors."""
        assert self._process.stdout is not None
        with open(self._log, "a", encoding="utf-8") as log:
            for line in self._process.stdout:
                text = line.decode(errors="replace").rstrip("\n")
                log.write(f"{text}\n")
                self._tell(text)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> JobReturn:
        self._reader.join(timeout=5)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with open(self._answer, "rb") as pipe:
            answer = pipe.read()
        try:
            return pickle.loads(answer)
        except (EOFError, pickle.UnpicklingError):
            dead = JobReturn(status=JobStatus.FAILED)
            dead.return_value = RuntimeError(self._how())
            return dead

    def _how(self) -> str:
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", as happens when memory runs out" if name == "SIGKILL" else ""
            return f"was killed by {name}{memory}"
        return f"ended with exit code {code}"

    def obituary(self, overrides: Sequence[str]) -> str:
        """What a person should know of a process that died."""
        said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [f"The process of {' '.join(overrides)} {self._how()}; see {self._log}"]
        return "\n".join([*lines, *(f"  {s}" for s in said[-_LINES_OF_THE_DEAD:])])

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGTERM)

    def end(self, seconds: float) -> None:
        try:
            self._process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _stop(children: Sequence[_Child]) -> None:
    """Ask all processes to give up their claims and end; kill those that do not."""
    for child in children:
        child.stop()
    until = time.monotonic() + _SECONDS_TO_STOP
    for child in children:
        child.end(until - time.monotonic())


def _record(directory: Path) -> progress.Record | None:
    try:
        return progress.read(directory)
    except (OSError, ValueError):  # another sweeper keeps no record
        return None


def _work(answer: int) -> None:
    """What a process of its own does: one job."""
    # Ctrl-C reaches every process of a terminal at once: only the sweep acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    context, task, config = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    version.setbase("1.3")
    setup_globals()
    tree.register()
    HydraConfig.instance().set_config(config)
    with contextlib.suppress(KeyboardInterrupt):
        returned = run_job(
            hydra_context=context, task_function=task, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip
        slim = JobReturn(overrides=returned.overrides, status=returned.status)
        slim._return_value = returned._return_value
        with open(answer, "wb") as pipe:
            pickle.dump(slim, pipe)


def _end_with_the_sweep() -> None:
    """Stop this process when the sweep is gone, and its input with it."""
    while os.read(0, 1):  # not through a buffer, which would be locked at the exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _work(int(sys.argv[1]))
