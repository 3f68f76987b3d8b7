"""Who computes a run: the one that could create the directory it is computed in.

    <study>/_running/<run id>.<n>/    status.json says RUNNING, and who; its time of
                                      modification is the heartbeat
    <study>/_running/<run id>.old/    what is about to be replaced

A claim is taken by creating the next number, which only one process can. A claim whose
heart has stopped is taken over by creating the number after it and then moving the
directory away. A finished run is put in its place by renaming that same directory. So
of an owner that was only paused and the one that took over, exactly one succeeds.
"""  # noqa: D208

import json
import os
import platform
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from experiments import files

ROOM = "_running"


class Lost(Exception):
    """The claim was taken over by another process, since this one gave no sign."""


@dataclass(frozen=True)
class Claim:
    """The right to compute a run, and the directory to write it into.

    Attributes:
        place: where the run belongs.
        work: where it is written until it is whole.
    """

    place: Path
    work: Path
    _replaces: tuple[int, int] | None  # what lay at `place` when the claim was taken
    _lost: threading.Event = field(default_factory=threading.Event)

    @property
    def lost(self) -> bool:
        """Whether the directory is gone, so that the results are another's to write."""
        return self._lost.is_set() or not self.work.exists()

    @contextmanager
    def alive(self, every: float) -> Iterator[None]:
        """Keep the heart beating, once in `every` seconds."""
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop, every), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()

    def _beat(self, stop: threading.Event, every: float) -> None:
        while not stop.wait(every):
            try:
                os.utime(self.work / "status.json")
            except FileNotFoundError:
                self._lost.set()
                return
            except OSError:
                pass  # a disk that is away for a moment

    def end(self, status: str) -> None:
        """Say that all files of the run are written, so that only `commit` is left."""
        text = json.dumps({"status": status, **myself()})
        files.replace(self.work / "status.json", text)

    def commit(self) -> None:
        """Put what was written in its place, in one step for whoever reads.

        Raises:
            Lost: if another process took over; what was written is discarded.
        """
        if not _install(self.work, self.place, self._replaces):
            raise Lost(f"another process took over {self.place.name}")

    def release(self) -> None:
        """Give the claim up without a result."""
        files.discard(self.work)


@dataclass(frozen=True)
class Owner:
    """Who holds a claim, or held it, as far as can be told from here."""

    work: Path
    about: Mapping[str, Any]
    alive: bool
    silent: float  # seconds since the last heartbeat


def take(place: Path, stale: float, about: Mapping[str, Any]) -> Claim | None:
    """Claim a run; `None` if another process computes it.

    Args:
        place: where the run belongs.
        stale: seconds without a heartbeat after which a claim is taken over. An owner
            on this machine whose process has ended is not waited for.
        about: what to tell others of this claim.
    """
    room = place.parent / ROOM
    room.mkdir(parents=True, exist_ok=True)
    while True:
        earlier = _generations(place)
        if earlier and _owner(earlier[-1], stale).alive:
            return None
        number = _number(earlier[-1]) + 1 if earlier else 1
        work = room / f"{place.name}.{number}"
        try:
            work.mkdir()
            break
        except FileExistsError:
            continue  # another process was faster
    try:
        text = json.dumps({"status": "RUNNING", **about, **myself()})
        files.replace(work / "status.json", text)
    except FileNotFoundError:
        return None  # paused for so long that another process took over
    for older in earlier:
        if _ended(older):  # killed between writing the run and putting it in its place
            _install(older, place, _identity(place))
        files.discard(older)
    _put_back(place)
    return Claim(place, work, _identity(place))


def owner(place: Path, stale: float) -> Owner | None:
    """Who computes a run, or did until it was killed; `None` if nobody."""
    found = _generations(place)
    return _owner(found[-1], stale) if found else None


def owners(study: Path, stale: float) -> dict[str, Owner]:
    """All claims of a study, by run id."""
    found: dict[str, Path] = {}
    for work in sorted(_works(study / ROOM), key=_number):
        found[work.name.rpartition(".")[0]] = work
    return {run: _owner(work, stale) for run, work in found.items()}


def recover(study: Path) -> None:
    """Put back what a process killed while replacing a run had moved aside."""
    for old in (study / ROOM).glob("*.old"):
        _put_back(study / old.name.removesuffix(".old"))


def _install(work: Path, place: Path, replaces: tuple[int, int] | None) -> bool:
    """Rename a whole run into its place; whether it is there now.

    What lay there is moved aside first, unless it is newer than what was to be
    replaced: then another process has finished the run, and its result stays.
    """
    old = work.with_name(f"{place.name}.old")
    files.sync(work)
    while True:
        try:
            os.rename(work, place)
            break
        except FileNotFoundError:
            return False
        except OSError:
            found = _identity(place)
            if found is None and not place.exists():
                raise
            if found != replaces:
                files.discard(work)
                return False
        files.discard(old)  # left by a process that was killed at this point
        try:
            os.rename(place, old)
        except FileNotFoundError:
            pass
    files.sync(place.parent)
    files.sync(work.parent)
    files.discard(old)
    return True


def _put_back(place: Path) -> None:
    old = place.parent / ROOM / f"{place.name}.old"
    if old.exists():
        if _identity(place) is not None:
            files.discard(old)
        elif not place.exists():
            try:
                os.rename(old, place)
            except OSError:  # another process was faster
                pass


def _identity(place: Path) -> tuple[int, int] | None:
    """Tells one result at a place from another."""
    try:
        found = os.stat(place / "status.json")
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _works(room: Path) -> list[Path]:
    try:
        names = os.listdir(room)
    except FileNotFoundError:
        return []
    return [room / name for name in names if name.rpartition(".")[2].isdigit()]


def _generations(place: Path) -> list[Path]:
    """The directories in which this run is or was computed, the latest one last."""
    works = _works(place.parent / ROOM)
    mine = [work for work in works if work.name.rpartition(".")[0] == place.name]
    return sorted(mine, key=_number)


def _number(work: Path) -> int:
    return int(work.name.rpartition(".")[2])


def _owner(work: Path, stale: float) -> Owner:
    about = read(work)
    try:
        beat = os.stat(work / "status.json").st_mtime
    except OSError:
        try:
            beat = os.stat(work).st_mtime  # created a moment ago
        except OSError:
            return Owner(work, about, False, 0.0)
    silent = max(0.0, files.clock(work.parent) - beat)
    return Owner(work, about, silent <= stale and not is_dead(about), silent)


def _ended(work: Path) -> bool:
    return read(work).get("status") in ("DONE", "FAILED")


def read(where: Path) -> dict[str, Any]:
    """What `status.json` in a directory says; nothing where it cannot be read."""
    try:
        found = json.loads((where / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def myself() -> dict[str, Any]:
    """What tells others of this process, and them whether it has ended."""
    pid = os.getpid()
    about = {"host": socket.gethostname(), "pid": pid}
    return {**about, "machine": _machine(), "process": _born(pid)}


def is_dead(about: Mapping[str, Any]) -> bool:
    """Whether a process, as by `myself`, ran on this machine and has ended.

    Elsewhere nothing can be said, and the heartbeat decides.
    """
    here = _machine()
    if here is None or about.get("machine") != here:
        return False
    return about.get("process") != _born(about.get("pid"))


@cache
def _machine() -> str | None:
    """Where process numbers mean the same processes; `None` where that is not known."""
    if platform.system() != "Linux":
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _born(pid: Any) -> str | None:
    """When a process started, which tells it from a later one of the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
