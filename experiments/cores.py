"""The cores of a machine divided among processes that compute side by side."""

import os
import sys
import tempfile

_held: list[int] = []  # open files, whose locks end with this process


def take_share(n_shares: int) -> None:
    """Keep this process to one of `n_shares` equal parts of its cores.

    XLA takes all cores that a process may use when it starts, so several processes at
    once would get in one another's way. Each takes the first part that no other has.
    Nothing is done where shares are less than a core, or where the system cannot.
    """
    if n_shares < 2 or _held or "jax" in sys.modules:
        return
    if not hasattr(os, "sched_setaffinity"):  # not on every system
        return
    import fcntl

    mine = sorted(os.sched_getaffinity(0))
    size = len(mine) // n_shares
    if size == 0:
        return
    place = tempfile.gettempdir()
    for share in range(n_shares):
        part = mine[share * size : (share + 1) * size]
        name = f"equintk-cores-{os.getuid()}-{part[0]}-{part[-1]}"
        file = os.open(os.path.join(place, name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        _held.append(file)
        os.sched_setaffinity(0, part)
        return
