"""The error for a model whose infinite-width limit is not known here."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jaxtyping

_NOT_THE_USERS = (
    "<",
    *(str(Path(str(package.__file__)).parent) for package in (jax, eqx, jaxtyping)),
    str(Path(__file__).parent.parent),
)


class NoLimitError(NotImplementedError):
    """The model has no infinite-width limit in closed form, or none that is known.

    Its text names the operation and the line of the model's code.
    """


def located(error: NoLimitError, place: str) -> NoLimitError:
    """The same error with the place in the model that it comes from, if it has none."""
    if getattr(error, "_located", False):
        return error
    named = NoLimitError(
        f"No infinite-width kernel: {error} ({place}). `nt.monte_carlo` averages the "
        "kernels of finite networks instead."
    )
    named._located = True  # type: ignore[attr-defined]
    return named


def line(eqn: Any) -> str:
    """The line of the user's code that an equation comes from, or nothing."""
    traceback = getattr(eqn.source_info, "traceback", None)
    frames = [] if traceback is None else list(traceback.frames)
    users = [f for f in frames if not f.file_name.startswith(_NOT_THE_USERS)]
    if not users:
        return ""
    frame = users[0]
    return f" at {frame.file_name}:{frame.line_num}, in `{frame.function_name}`"
