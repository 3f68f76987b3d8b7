"""A user's own data: from a file, from OpenML, or from a function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments import imports
from experiments.schema import (
    ConfigError,
    CustomDatasetConfig,
    FileConfig,
    OpenMLConfig,
    OwnDataConfig,
    Targets,
)

if TYPE_CHECKING:
    import pandas as pd


class Table(NamedTuple):
    """Examples along the first axis; `y` are labels or numbers, `(n,)` or `(n, k)`."""

    x: np.ndarray
    y: np.ndarray


def read(config: OwnDataConfig) -> Table:
    """All examples of a file, a data set of OpenML, or what a function returned.

    Raises:
        ConfigError: if it is not there, or is not what a network can read.
    """
    match config:
        case FileConfig():
            x, y = _file(config)
        case OpenMLConfig():
            x, y = _openml(config)
        case CustomDatasetConfig():
            x, y = _custom(config)
        case _:
            raise ConfigError(f"There is no data set `{config.name}`.")
    return _checked(config, x, y)


def _file(config: FileConfig) -> tuple[np.ndarray, np.ndarray]:
    path = Path(config.path)
    if not path.is_file():
        raise ConfigError(
            f"dataset.path={config.path}: there is no such file in {Path.cwd()}. Type "
            "the path of an .npz or a .csv file."
        )
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("x", "y") if name not in arrays]
            if missing:
                raise ConfigError(
                    f"`{path}` must hold the arrays `x` and `y`, but it holds "
                    f"{', '.join(arrays) or 'none'}. Write it by np.savez(path, x=x, "
                    "y=y)."
                )
            return arrays["x"], arrays["y"]
    if path.suffix == ".csv":
        import pandas as pd

        return _columns(str(path), pd.read_csv(path), list(config.columns))
    raise ConfigError(
        f"dataset.path={config.path} must end in .npz or .csv, which are what is read."
    )


def _openml(config: OpenMLConfig) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import fetch_openml

    try:
        found: Any = fetch_openml(
            config.openml, version=config.version, as_frame=True, parser="auto"
        )
    except (OSError, ValueError) as error:  # no network; or no data set of this name
        raise ConfigError(
            f"dataset.openml={config.openml} (version {config.version}) could not be "
            f"fetched: {type(error).__name__}: {error}. Look up its name and version "
            "at openml.org; without a network type dataset=file dataset.path=..., or "
            "one of the bundled sets, such as dataset=wine."
        ) from error
    names = [found.target.name] if found.target.ndim == 1 else list(found.target)
    return _columns(config.openml, found.frame, names)


def _custom(config: CustomDatasetConfig) -> tuple[np.ndarray, np.ndarray]:
    build = imports.function("dataset.build", config.build)
    found = build(config.n_train + config.n_test, config.seed)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ConfigError(
            f"dataset.build={config.build} must return x and y, two arrays whose first "
            f"axis counts examples, but it returned a {type(found).__name__}."
        )
    return np.asarray(found[0]), np.asarray(found[1])


def _columns(
    where: str, frame: "pd.DataFrame", targets: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets from the columns of a table."""
    missing = [name for name in targets if name not in frame]
    if missing or not targets:
        raise ConfigError(
            f"`{where}` has no column {', '.join(missing) or 'named as a target'}. "
            f"Type dataset.columns=[...] with some of {', '.join(map(str, frame))}."
        )
    inputs = frame.drop(columns=targets)
    words = [str(n) for n in inputs if inputs[n].dtype.kind not in "iufb"]
    if words:
        raise ConfigError(
            f"The columns {', '.join(words)} of `{where}` are no numbers. Leave them "
            "out, or write them as columns of zeros and ones."
        )
    y = frame[targets].to_numpy()
    return inputs.to_numpy(float), y[:, 0] if len(targets) == 1 else y


def _checked(config: OwnDataConfig, x: np.ndarray, y: np.ndarray) -> Table:
    numbers = config.targets is Targets.numbers
    if x.ndim < 2 or len(x) != len(y) or y.ndim > 2 or (y.ndim == 2 and not numbers):
        raise ConfigError(
            f"The data set `{config.name}` needs one target for each example, x of "
            "shape (n, ...) and y of shape (n,) or, for numbers, (n, outputs), but "
            f"they have {x.shape} and {y.shape}."
        )
    for name, array in {"x": x, **({"y": y} if numbers else {})}.items():
        if array.dtype.kind not in "iufb":
            hint = " Type dataset.targets=classes." if name == "y" else ""
            raise ConfigError(
                f"`{name}` of the data set `{config.name}` must hold numbers, but its "
                f"dtype is {array.dtype}.{hint}"
            )
        wrong = int(np.sum(~np.isfinite(array.astype(float))))
        if wrong:
            raise ConfigError(
                f"{wrong} of the numbers in `{name}` of the data set `{config.name}` "
                "are NaN or infinite. Leave those examples out."
            )
    return Table(x.astype(float), y)
