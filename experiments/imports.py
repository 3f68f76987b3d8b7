"""A user's own function by its name, `package.module:function`."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from experiments.schema import ConfigError


def function(key: str, name: str) -> Callable[..., Any]:
    """The function that a config names; modules of the working directory count.

    Args:
        key: the config key that names it, for errors.
        name: `package.module:function`.

    Raises:
        ConfigError: if there is no such module, or no such function in it.
    """
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks what it imports itself
        raise ConfigError(
            f"{key}={name}: there is no module `{module_name}` in {here} or on Python's"
            f" path. Type {key}=module:function, of a file such as {here}/module.py."
        ) from None
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and n[0] != "_"]
        raise ConfigError(
            f"{key}={name}: `{module_name}` has no function `{attribute}`. It has "
            f"{', '.join(names) or 'none'}."
        )
    return found
