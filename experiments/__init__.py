"""Configs in, tables out: how far is a trained network from its kernel's prediction?"""

from importlib.util import find_spec

_PACKAGES = ("hydra", "omegaconf", "optax", "pandas", "sklearn", "matplotlib", "rich")


def missing_packages() -> list[str]:
    """Those of the `experiments` extra that are not installed."""
    return [name for name in _PACKAGES if find_spec(name) is None]


if missing_packages():
    raise ModuleNotFoundError(
        f"The experiments need {', '.join(missing_packages())}, which the library "
        "alone does not. In the checkout, type `pip install -c constraints.txt -e "
        '".[experiments]"`.'
    )
