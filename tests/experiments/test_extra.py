"""Without the packages of the `experiments` extra, the error names the extra."""

import importlib
import importlib.util

import pytest

import experiments


def test_a_missing_package_is_answered_with_the_extra_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    absent = lambda name: None if name in ("hydra", "optax") else find_spec(name)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", absent)
        with pytest.raises(
            ModuleNotFoundError, match=r"hydra, optax.*\.\[experiments\]"
        ):
            importlib.reload(experiments)
    importlib.reload(experiments)
    assert not experiments.missing_packages()
