"""Packages that only an export needs."""

from importlib.util import find_spec


class MissingExtraError(Exception):
    """An optional package is not installed; the text says what to type."""


def need(package: str, extra: str) -> None:
    """Make sure that a package is there.

    Raises:
        MissingExtraError: if it is not.
    """
    if find_spec(package) is None:
        raise MissingExtraError(
            f"This export needs {package}, which is not installed. In the checkout, "
            f'type `pip install -c constraints.txt -e ".[{extra}]"`; elsewhere '
            f'`pip install "equintk[{extra}]"`.'
        )
