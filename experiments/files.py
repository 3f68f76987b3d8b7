"""Files that are there whole or not at all, and stay after a power cut."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a file that nobody reads yet, down to the disk."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` once it is whole.

    Others may be reading an older one meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=".", suffix=f".part{path.suffix}"
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's are for the owner alone
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace(path: Path, text: str) -> None:
    """Write a small file as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk, where that can be."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network disks
        pass
    finally:
        os.close(handle)


def discard(directory: Path) -> None:
    """Remove a directory under a name that nobody takes for its own any more."""
    hidden = directory.with_name(f".gone-{os.urandom(6).hex()}")
    try:
        os.rename(directory, hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden, ignore_errors=True)


def clock(directory: Path) -> float:
    """The time by the disk's own clock, in the seconds of modification times.

    Hosts that share a disk need not agree on the time.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=".clock-", dir=directory)
    except OSError:  # a disk that may only be read
        return time.time()
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        os.unlink(name)
