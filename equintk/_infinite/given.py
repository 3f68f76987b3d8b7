"""Rules that users give for primitives that are not known here."""

from collections.abc import Callable
from typing import Any

from .._types import Text
from .data import POINTWISE
from .reader import GIVEN, RULES

Spelling = Callable[..., Any]


def infinite_rule(primitive: Text) -> Callable[[Spelling], Spelling]:
    """Say what a primitive does, for infinite width, in operations that are known.

    ```python
    @nt.infinite_rule("fast_gelu")
    def _(x, *, approximate):
        return jax.nn.gelu(x, approximate=approximate)
    ```

    Args:
        primitive: its name, which `NoLimitError` gives.

    Returns:
        A decorator of a function of the primitive's operands, with its parameters by
        keyword, that returns its result, or a sequence of its results. It is read like
        the model's own code: its values and derivatives must be the primitive's.

    Raises:
        ValueError: if there is a rule for the primitive here.
    """
    if primitive in RULES or primitive in POINTWISE:
        raise ValueError(
            f"The primitive {primitive!r} has a rule of its own. Where that raises, "
            "the limit is not known whatever the spelling."
        )

    def register(function: Spelling) -> Spelling:
        GIVEN[primitive] = function
        return function

    return register
