from typing import Any

import numpy as np
import pytest

from experiments import datasets, imports, own_data, pipeline
from experiments.identity import identity
from experiments.schema import ConfigError

from .commands import config, small

pytestmark = pytest.mark.usefixtures("runs_may_set_jax")

CODE = """
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
import equintk as nt

SHAPES = []

def build(key, in_shape, out_dim, width):
    SHAPES.append(in_shape)
    n = int(np.prod(in_shape))
    return eqx.nn.Sequential([
        eqx.nn.Lambda(jnp.ravel),
        eqx.nn.MLP(n, out_dim, width, 1, jnp.tanh, key=key),
    ])

def too_many(key, in_shape, out_dim, width):
    return eqx.nn.Linear(in_shape[0], out_dim + 1, key=key)

def not_for_vectors(key, in_shape, out_dim, width):
    return eqx.nn.Conv2d(1, out_dim, 3, key=key)

def kernel(model, key, x_train, x_test):
    return nt.ntk_full(model, x_train), nt.ntk_full(model, x_test, x_train)

def wrong_kernel(model, key, x_train, x_test):
    return jnp.eye(3), jnp.eye(3)

def data(n, seed):
    x = np.random.default_rng(seed).standard_normal((n, 1, 2, 2))
    return x, x.sum(axis=(1, 2, 3))

def labels(n, seed):
    x, y = data(n, seed)
    return x, np.where(y > 0, "yes", "no")

number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a module of the user's in it."""
    monkeypatch.chdir(tmp_path)
    name = f"mine_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    return name


def test_a_run_of_own_data_model_and_kernel_is_that_of_the_exact_kernel(here):
    own = ["model=custom", f"model.build={here}:build"]
    own += ["dataset=custom", f"dataset.build={here}:data"]
    mine = ("kernel=custom", f"kernel.build={here}:kernel")
    found = pipeline.run(small(*own, *mine), "r0").summary
    exact = pipeline.run(small(*own, "kernel=exact"), "r0").summary
    assert found["relative_divergence_test"] == pytest.approx(
        exact["relative_divergence_test"], rel=1e-9
    )
    assert {"movement_relative/layers[1].layers[0]", "movement_relative/all"} <= set(
        found
    )
    assert set(
        imports.function("model.build", f"{here}:build").__globals__["SHAPES"]
    ) == {(1, 2, 2)}


def test_labels_of_ones_own_are_classes(here):
    own = ("dataset=custom", f"dataset.build={here}:labels", "dataset.targets=classes")
    data = datasets.build(small(*own).dataset)
    assert data.classes == (0, 1) and set(data.y_train.ravel()) == {-1.0, 1.0}
    assert data.image_shape == (1, 2, 2) and data.x_train.shape == (6, 4)
    x, y = imports.function("dataset.build", f"{here}:data")(11, 0)
    signs = {
        tuple(row.ravel()): np.sign(total) for row, total in zip(x, y, strict=True)
    }
    assert [signs[tuple(row)] for row in data.x_train] == list(data.y_train[:, 0])


@pytest.mark.parametrize(
    "overrides, text",
    [
        ("model=custom model.build=nowhere_at_all:f", "no module `nowhere_at_all`"),
        ("model=custom model.build=HERE:none", "has no function `none`. It has build"),
        ("model=custom model.build=HERE:number", "has no function `number`"),
        (
            "model=custom model.build=HERE:too_many",
            r"must give .* \(1,\), but",
        ),
        ("model=custom model.build=HERE:not_for_vectors", r"does not take .* \(10,\)"),
        ("kernel=custom kernel.build=HERE:wrong_kernel", r"shapes \(6, 6\) and \(5, 6"),
        ("dataset=custom dataset.build=HERE:number", "has no function `number`"),
        ("dataset=custom dataset.build=HERE:too_many", "takes|positional|missing"),
    ],
)
def test_functions_that_give_something_else_are_refused(here, overrides, text):
    parameterization = "parameterization=equinox"
    given = overrides.replace("HERE", here).split()
    with pytest.raises((ConfigError, TypeError), match=text):
        pipeline.run(small(parameterization, *given), "r0")


@pytest.mark.parametrize(
    "overrides, text",
    [
        (
            "model=custom",
            "model.build= must name a function .*=my_module:build",
        ),
        ("kernel=custom kernel.build=abc", "kernel.build=abc must name a function"),
        ("dataset=file", "dataset.path is empty; type dataset.path=FILE"),
    ],
)
def test_what_has_no_name_yet_is_refused_before_anything_starts(overrides, text):
    with pytest.raises(ConfigError, match=text):
        small(*overrides.split())


def test_a_change_of_ones_own_code_or_file_makes_another_run(here, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((20, 2)), y=np.arange(20.0))
    given = ("model=custom", f"model.build={here}:build", "dataset=file")
    wanted = small(*given, "dataset.path=d.npz")
    before, again = identity(wanted), identity(wanted)
    assert before == again
    (tmp_path / f"{here}.py").write_text(CODE + "# changed\n")
    changed = identity(wanted)
    assert changed["model"] != before["model"]
    assert changed["dataset"] == before["dataset"]
    np.savez(tmp_path / "d.npz", x=np.zeros((20, 2)), y=np.arange(20.0))
    assert identity(wanted)["dataset"] != before["dataset"]


def table(tmp_path, name, **columns):
    path = tmp_path / name
    rows = zip(*columns.values(), strict=True)
    text = "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)])
    path.write_text(text + "\n")
    return path


def file_config(path, *overrides) -> Any:
    given = ("n_train=6", "n_test=4", "dataset=file", f"dataset.path={path}")
    return config(*given, *overrides).dataset


def test_npz_and_csv_files_of_the_same_numbers_are_the_same_data(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 2)), rng.standard_normal(12)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    path = table(tmp_path, "d.csv", a=x[:, 0], target=y, b=x[:, 1])
    one = datasets.build(file_config(tmp_path / "d.npz"))
    two = datasets.build(file_config(path, "dataset.columns=[target]"))
    for name in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-12)
    np.testing.assert_allclose(one.x_train.std(axis=0), 1)
    raw = datasets.build(file_config(tmp_path / "d.npz", "dataset.standardise=false"))
    assert {*raw.y_train.ravel(), *raw.y_test.ravel()} < set(y)


def test_classes_of_a_csv_file_may_be_words(tmp_path):
    path = table(tmp_path, "d.csv", a=range(12), kind=["x", "y", "z"] * 4)
    given = ("dataset.columns=[kind]", "dataset.targets=classes")
    data = datasets.build(file_config(path, *given))
    assert data.classes == (0, 1, 2) and data.y_train.shape == (6, 3)


@pytest.mark.parametrize(
    "columns, overrides, text",
    [
        ({"a": [1], "b": [2]}, "", "named as a target.*columns=.*some of a, b"),
        ({"a": [1], "b": [2]}, "dataset.columns=[c]", "no column c.*some of a, b"),
        ({"a": ["u"], "b": [2]}, "dataset.columns=[b]", "columns a of .* no numbers"),
        ({"a": ["", 1], "b": [2, 3]}, "dataset.columns=[b]", "1 of the numbers in `x`"),
        ({"a": [1], "b": ["u"]}, "dataset.columns=[b]", "dtype.*targets=classes"),
        (
            {"a": [1, 2], "b": [5, 5]},
            "dataset.columns=[b] dataset.targets=classes n_train=1 n_test=1",
            "one class",
        ),
        ({"a": [1, 2], "b": [5, 5]}, "dataset.columns=[b]", "need 10 examples.*has 2"),
    ],
)
def test_tables_that_are_no_data_set_are_refused(tmp_path, columns, overrides, text):
    path = table(tmp_path, "d.csv", **columns)
    with pytest.raises(ConfigError, match=text):
        datasets.build(file_config(path, *overrides.split()))


def test_files_that_cannot_be_read_are_refused_with_what_can(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file in .*npz or a .csv"):
        own_data.read(file_config("nowhere.csv"))
    (tmp_path / "d.txt").write_text("1 2")
    with pytest.raises(ConfigError, match="must end in .npz or .csv"):
        own_data.read(file_config(tmp_path / "d.txt"))
    np.savez(tmp_path / "d.npz", a=1)
    with pytest.raises(ConfigError, match="arrays `x` and `y`, but it holds a"):
        own_data.read(file_config(tmp_path / "d.npz"))
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=np.ones(4))
    with pytest.raises(ConfigError, match=r"\(3, 2\) and \(4,\)"):
        own_data.read(file_config(tmp_path / "d.npz"))


def test_openml_without_a_network_says_what_to_type(monkeypatch):
    from urllib.error import URLError

    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    wanted = config("dataset=openml", "dataset.openml=blood").dataset
    with pytest.raises(ConfigError, match="blood.*could not be fetched.*dataset=wine"):
        datasets.build(wanted)


def test_openml_gives_classes_by_name(monkeypatch):
    import pandas as pd
    from sklearn.utils import Bunch

    def fetched(name, version, **_):
        assert (name, version) == ("blood", 1)
        target = pd.Series(["1", "2"] * 10, name="Class", dtype="category")
        frame = pd.DataFrame({"a": np.arange(20.0), "Class": target})
        return Bunch(frame=frame, target=target)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetched)
    given = ("dataset=openml", "dataset.openml=blood", "n_train=12", "n_test=8")
    data = datasets.build(config(*given).dataset)
    assert data.x_train.shape == (12, 1) and data.classes == (0, 1)
