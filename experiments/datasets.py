"""Data sets as NumPy arrays: bundled with scikit-learn, or drawn from a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments import own_data
from experiments.schema import (
    ConfigError,
    DatasetConfig,
    DigitsConfig,
    ImageConfig,
    OwnDataConfig,
    SplitConfig,
    Targets,
    TeacherConfig,
)


@dataclass(frozen=True)
class Dataset:
    """Inputs and targets in float64; whoever computes with them chooses the precision.

    Attributes:
        name: as in the config.
        x_train: inputs, `(n_train, in_dim)`.
        y_train: targets, `(n_train, out_dim)`.
        x_test: inputs, `(n_test, in_dim)`.
        y_test: targets, `(n_test, out_dim)`.
        classes: the labels, in the order of the targets; `None` for regression. Two
            classes have one target, -1 for the first and +1 for the second; more have
            one column each, centred one-hot.
        image_shape: channels, rows and columns that an input can be reshaped to, if it
            is an image.
        y_mean: what was subtracted from the targets of `image`, `(out_dim,)`.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[int, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    y_mean: np.ndarray | None = None

    def labels(self, split: Literal["train", "test"]) -> np.ndarray:
        """The class of each example, counted from 0."""
        return _predicted_class(self.y_train if split == "train" else self.y_test)

    def accuracy(
        self, outputs: np.ndarray, split: Literal["train", "test"]
    ) -> np.ndarray | None:
        """Fraction of examples put in their class; `None` for regression.

        Args:
            outputs: `(*times, n, out_dim)`, of the examples of `split`.
            split: whose targets to compare with.

        Returns:
            `(*times,)`, in [0, 1]. A single output of zero is the first class.
        """
        if self.classes is None:
            return None
        return np.mean(_predicted_class(outputs) == self.labels(split), axis=-1)


def build(config: DatasetConfig) -> Dataset:
    """The data set that a config names, the same for every seed of a run.

    Raises:
        ConfigError: if it has no such name, too few examples, or no such classes.
    """
    if isinstance(config, OwnDataConfig):
        return _own(config)
    if config.name not in _LOADERS:
        raise ConfigError(
            f"There is no data set `{config.name}`. Type dataset.name= one of "
            f"{', '.join(_LOADERS)}."
        )
    return _LOADERS[config.name](config)


def to_picture(
    dataset: Dataset, train_values: np.ndarray, test_values: np.ndarray
) -> np.ndarray:
    """Put outputs for the `image` data set back at their pixels.

    Args:
        dataset: `build` of an `ImageConfig`.
        train_values: outputs at `x_train`, `(n_train, 3)`; `y_train` gives the picture.
        test_values: outputs at `x_test`, `(n_test, 3)`.

    Returns:
        `(rows, columns, 3)`, colours clipped to [0, 1].

    Raises:
        ValueError: for any other data set.
    """
    if dataset.y_mean is None:
        raise ValueError(
            f"The data set `{dataset.name}` is not a picture; only dataset=image is."
        )
    coordinates = np.concatenate([dataset.x_train, dataset.x_test])
    size = round(len(coordinates) ** 0.5)
    rows, columns = np.rint(((coordinates + 1) * size - 1) / 2).astype(int).T
    picture = np.empty((size, size, 3))
    picture[rows, columns] = np.concatenate([train_values, test_values])
    return np.clip(picture + dataset.y_mean, 0, 1)


def _digits(config: DigitsConfig) -> Dataset:
    """Images centred by the training mean, then each of squared norm 64."""
    from sklearn.datasets import load_digits  # takes seconds: only when asked for

    images, labels = map(np.asarray, load_digits(return_X_y=True))
    classes = _checked_classes(config.classes, known=np.unique(labels).tolist())
    mine = np.isin(labels, classes)
    train, test = _split(config, n_available=int(mine.sum()))
    x, labels = images[mine], labels[mine]
    x = _to_squared_norm(x - x[train].mean(axis=0), x.shape[1])
    y = _targets(labels, classes)
    return Dataset(
        config.name,
        x[train],
        y[train],
        x[test],
        y[test],
        classes,
        image_shape=(1, 8, 8),
    )


def _diabetes(config: SplitConfig) -> Dataset:
    """Features and target of training mean 0 and training variance 1."""
    from sklearn.datasets import load_diabetes

    x, y = map(np.asarray, load_diabetes(return_X_y=True))
    train, test = _split(config, n_available=len(x))
    x, y = _standardise(x, train), _standardise(y[:, None], train)
    return Dataset(config.name, x[train], y[train], x[test], y[test])


def _classes(config: SplitConfig) -> Dataset:
    """Features of training mean 0 and training variance 1; targets of the classes."""
    from sklearn import datasets as bundled

    found = getattr(bundled, f"load_{config.name}")()
    x, labels = np.asarray(found.data, float), np.asarray(found.target)
    train, test = _split(config, n_available=len(x))
    x, classes = _standardise(x, train), tuple(np.unique(labels).tolist())
    y = _targets(labels, classes)
    return Dataset(config.name, x[train], y[train], x[test], y[test], classes)


def _teacher(config: TeacherConfig) -> Dataset:
    """Inputs on a sphere of squared radius `in_dim`; targets of training variance 1."""
    # One stream each, so that a longer training set leaves the test set as it was.
    teacher, for_train, for_test = np.random.default_rng(config.seed).spawn(3)
    weights = teacher.standard_normal((config.in_dim, config.teacher_width))
    readout = teacher.standard_normal((config.teacher_width, 1))
    x = np.concatenate(
        [
            for_train.standard_normal((config.n_train, config.in_dim)),
            for_test.standard_normal((config.n_test, config.in_dim)),
        ]
    )
    x = _to_squared_norm(x, config.in_dim)
    y = np.tanh(x @ weights / np.sqrt(config.in_dim)) @ readout
    y = _standardise(y, np.arange(config.n_train))
    n = config.n_train
    return Dataset(config.name, x[:n], y[:n], x[n:], y[n:])


def _image(config: ImageConfig) -> Dataset:
    """Inputs are the row and column of a pixel's centre, both in [-1, 1]."""
    from sklearn.datasets import load_sample_image

    picture = load_sample_image(f"{config.picture.name}.jpg") / 255
    picture = _resize(_centre_square(picture), config.size)
    rows, columns = np.indices(picture.shape[:2]).reshape(2, -1)
    x = (2 * np.stack([rows, columns], axis=1) + 1) / config.size - 1
    y = picture.reshape(-1, 3)
    train = (rows + columns) % 2 == 0
    mean = y[train].mean(axis=0)
    return Dataset(
        config.name, x[train], y[train] - mean, x[~train], y[~train] - mean, y_mean=mean
    )


def _own(config: OwnDataConfig) -> Dataset:
    """Inputs as vectors; three axes of an example are channels, rows and columns."""
    table = own_data.read(config)
    train, test = _split(config, n_available=len(table.x))
    in_shape = table.x.shape[1:]
    x, classes = table.x.reshape(len(table.x), -1), None
    if config.targets is Targets.classes:
        known, codes = np.unique(table.y, return_inverse=True)
        if len(known) < 2:
            raise ConfigError(
                f"The data set `{config.name}` has one class, {known}; classes need "
                "two. Type dataset.targets=numbers for a regression."
            )
        classes = tuple(range(len(known)))
        y = _targets(codes.ravel(), classes)
    else:
        y = table.y.reshape(len(x), -1).astype(float)
        y = _standardise(y, train) if config.standardise else y
    x = _standardise(x, train) if config.standardise else x
    image_shape = in_shape if len(in_shape) == 3 else None
    return Dataset(
        config.name, x[train], y[train], x[test], y[test], classes, image_shape
    )


_LOADERS: dict[str, Callable[[Any], Dataset]] = {
    "digits": _digits,
    "iris": _classes,
    "wine": _classes,
    "breast_cancer": _classes,
    "diabetes": _diabetes,
    "teacher": _teacher,
    "image": _image,
}


def _split(config: SplitConfig, n_available: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and test examples: the two ends of one permutation.

    So the test set does not depend on `n_train`, and smaller sets are part of larger.
    """
    if config.n_train + config.n_test > n_available:
        raise ConfigError(
            f"n_train={config.n_train} and n_test={config.n_test} need "
            f"{config.n_train + config.n_test} examples, but this choice from the data "
            f"set `{config.name}` has {n_available}. Type smaller ones, or "
            "dataset=teacher, which has any number."
        )
    order = np.random.default_rng(config.seed).permutation(n_available)
    return order[: config.n_train], order[n_available - config.n_test :]


def _checked_classes(classes: list[int], known: list[int]) -> tuple[int, ...]:
    unknown = [label for label in classes if label not in known]
    if unknown or len(set(classes)) != len(classes) or len(classes) < 2:
        raise ConfigError(
            f"dataset.classes={list(classes)} must be at least two different labels "
            f"out of {known}; for example dataset.classes=[3,8]."
        )
    return tuple(classes)


def _targets(labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """-1 and +1 for two classes, centred one-hot columns for more."""
    one_hot = (labels[:, None] == np.array(classes)).astype(float)
    if len(classes) == 2:
        return one_hot[:, 1:] - one_hot[:, :1]
    return one_hot - 1 / len(classes)


def _to_squared_norm(x: np.ndarray, squared_norm: float) -> np.ndarray:
    """Each row scaled; a row of zeros, which has no direction, stays zero."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x * np.sqrt(squared_norm) / np.where(norm > 0, norm, 1)


def _standardise(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Each column by its training mean and deviation; a constant one becomes zero."""
    mean, deviation = values[train].mean(axis=0), values[train].std(axis=0)
    return (values - mean) / np.where(deviation > 0, deviation, 1)


def _centre_square(picture: np.ndarray) -> np.ndarray:
    rows, columns, _ = picture.shape
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    return picture[top : top + side, left : left + side]


def _resize(picture: np.ndarray, size: int) -> np.ndarray:
    """Average by area: a new pixel weighs each old one by the area they share.

    Separable, so two sparse-looking matrix products; enlarging works too.
    """
    side = len(picture)
    new, old = np.arange(size)[:, None] * side / size, np.arange(side)
    shared = np.minimum(new + side / size, old + 1) - np.maximum(new, old)
    weights = np.clip(shared, 0, None) * size / side
    return np.einsum("ip,pqc,jq->ijc", weights, picture, weights, optimize=True)


def _predicted_class(outputs: np.ndarray) -> np.ndarray:
    """Index of the class by sign of a single output, or by the largest of several."""
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > 0).astype(int)
    return np.argmax(outputs, axis=-1)
