from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image

from experiments import datasets
from experiments.schema import (
    DatasetConfig,
    DigitsConfig,
    ImageConfig,
    Picture,
    SplitConfig,
    TeacherConfig,
)


def digits(classes=(3, 8), n_train=40, n_test=30, seed=0):
    return datasets.build(
        DigitsConfig(
            "digits", seed, n_train=n_train, n_test=n_test, classes=list(classes)
        )
    )


def diabetes(n_train=300, n_test=142, seed=0):
    return datasets.build(SplitConfig("diabetes", seed, n_train=n_train, n_test=n_test))


def teacher(n_train=40, n_test=30, seed=0, in_dim=10):
    return datasets.build(TeacherConfig("teacher", seed, n_train, n_test, in_dim, 16))


def image(size=16, picture=Picture.china):
    return datasets.build(ImageConfig("image", 0, picture, size))


@pytest.mark.parametrize(
    "build, in_dim, out_dim",
    [
        (digits, 64, 1),
        (partial(digits, range(10)), 64, 10),
        (diabetes, 10, 1),
        (teacher, 10, 1),
    ],
    ids=["digits_3v8", "digits10", "diabetes", "teacher"],
)
def test_arrays_have_the_sizes_that_were_asked_for(build, in_dim, out_dim):
    dataset = build(n_train=40, n_test=30)
    assert dataset.x_train.shape == (40, in_dim)
    assert dataset.y_train.shape == (40, out_dim)
    assert dataset.x_test.shape == (30, in_dim)
    assert dataset.y_test.shape == (30, out_dim)
    for x in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        assert x.dtype == np.float64
        assert np.isfinite(x).all()


@pytest.mark.parametrize("build", [digits, diabetes, teacher])
def test_the_seed_decides_the_data_set(build):
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    np.testing.assert_array_equal(first.x_train, again.x_train)
    np.testing.assert_array_equal(first.y_test, again.y_test)
    assert not np.array_equal(first.x_train, other.x_train)


@pytest.mark.parametrize("build", [digits, teacher])
def test_more_training_examples_leave_the_test_examples_as_they_are(build):
    few, many = build(n_train=20), build(n_train=50)
    # Up to scale: the targets of a teacher are divided by their training deviation.
    for short, long in ((few.y_test, many.y_test), (few.y_train, many.y_train[:20])):
        correlation = np.corrcoef(short[:, 0], long[:, 0])[0, 1]
        assert correlation == pytest.approx(1)


@pytest.mark.parametrize("build, squared_norm", [(digits, 64), (teacher, 10)])
def test_inputs_have_the_squared_norm_of_their_dimension(build, squared_norm):
    dataset = build()
    for x in (dataset.x_train, dataset.x_test):
        np.testing.assert_allclose(np.sum(x**2, axis=1), squared_norm)


def test_two_digits_centred_by_their_mean_are_opposite():
    x = digits(n_train=2).x_train
    np.testing.assert_allclose(x[0], -x[1], atol=1e-12)


def test_a_digit_that_is_the_training_mean_is_zero_and_not_nan():
    np.testing.assert_array_equal(digits(n_train=1).x_train, np.zeros((1, 64)))


def test_every_digit_is_in_one_split_only():
    dataset = digits(n_train=200, n_test=157)
    assert (
        len(np.unique(np.concatenate([dataset.x_train, dataset.x_test]), axis=0)) == 357
    )


def test_the_first_of_two_classes_has_target_minus_one():
    dataset = digits(classes=(8, 3), n_train=300, n_test=57)
    images, labels = load_digits(return_X_y=True)
    eight_to_three = images[labels == 3].mean(axis=0) - images[labels == 8].mean(axis=0)
    scores = dataset.x_train @ eight_to_three
    assert set(dataset.y_train.ravel()) == {-1.0, 1.0}
    assert np.mean(np.sign(scores - np.median(scores)) == dataset.y_train[:, 0]) > 0.9
    assert dataset.classes == (8, 3)


def test_several_classes_have_centred_one_hot_targets():
    dataset = digits(classes=(5, 0, 7), n_train=500, n_test=30)
    y = dataset.y_train
    np.testing.assert_allclose(y.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(np.unique(y), [-1 / 3, 2 / 3])
    # The nearest class mean of the raw images knows which digit an example shows.
    images, labels = load_digits(return_X_y=True)
    means = np.stack([images[labels == label].mean(axis=0) for label in (5, 0, 7)])
    means -= means.mean(axis=0)
    nearest = np.argmax(dataset.x_train @ means.T, axis=1)
    assert np.mean(nearest == np.argmax(y, axis=1)) > 0.9


def test_digits_are_images_and_other_inputs_are_not():
    assert digits().image_shape == (1, 8, 8)
    assert {d.image_shape for d in (diabetes(), teacher(), image())} == {None}


def test_diabetes_is_standardised_by_its_training_examples():
    dataset = diabetes()
    for train, test in (
        (dataset.x_train, dataset.x_test),
        (dataset.y_train, dataset.y_test),
    ):
        np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(train.std(axis=0), 1)
        assert np.all(np.abs(test.mean(axis=0)) > 1e-6)


def test_teacher_targets_have_unit_variance_and_are_a_function_of_the_input():
    dataset = teacher(n_train=2000)
    assert dataset.y_train.var() == pytest.approx(1)
    assert abs(np.corrcoef(dataset.y_train[:-1, 0], dataset.y_train[1:, 0])[0, 1]) < 0.1
    # A linear fit explains much of a smooth function, and nothing of noise.
    fit, *_ = np.linalg.lstsq(dataset.x_train, dataset.y_train, rcond=None)
    assert np.mean((dataset.x_test @ fit - dataset.y_test) ** 2) < 0.7


def test_a_single_teacher_example_has_target_zero_and_not_nan():
    np.testing.assert_array_equal(teacher(n_train=1).y_train, [[0.0]])


@pytest.mark.parametrize("picture", Picture)
def test_a_picture_is_averaged_by_area_and_comes_back(picture):
    dataset = image(size=7, picture=picture)
    got = datasets.to_picture(dataset, dataset.y_train, dataset.y_test)
    # 427 rows of 640 pixels: the middle 427 columns in 7 x 7 blocks of 61 x 61.
    square = load_sample_image(f"{picture.name}.jpg")[:, 106 : 106 + 427] / 255
    np.testing.assert_allclose(got, square.reshape(7, 61, 7, 61, 3).mean(axis=(1, 3)))


@pytest.mark.parametrize("size", [10, 512])
def test_resizing_keeps_the_mean_colour(size):
    dataset = image(size)
    got = datasets.to_picture(dataset, dataset.y_train, dataset.y_test)
    square = load_sample_image("china.jpg")[:, 106 : 106 + 427] / 255
    np.testing.assert_allclose(got.mean(axis=(0, 1)), square.mean(axis=(0, 1)))


def test_a_checkerboard_of_pixel_centres_trains():
    dataset = image(size=4)
    centres = [-0.75, -0.25, 0.25, 0.75]
    white = [
        (centres[r], centres[c]) for r in range(4) for c in range(4) if (r + c) % 2 == 0
    ]
    black = [
        (centres[r], centres[c]) for r in range(4) for c in range(4) if (r + c) % 2
    ]
    np.testing.assert_allclose(sorted(map(tuple, dataset.x_train)), white)
    np.testing.assert_allclose(sorted(map(tuple, dataset.x_test)), black)
    np.testing.assert_allclose(dataset.y_train.mean(axis=0), 0, atol=1e-15)


def test_colours_out_of_range_are_clipped():
    dataset = image(size=4)
    got = datasets.to_picture(dataset, dataset.y_train + 2, dataset.y_test - 2)
    assert set(got.ravel()) == {0.0, 1.0}


def test_accuracy_counts_signs_along_every_time():
    dataset = digits(n_train=4)
    right = 0.1 * dataset.y_train
    half_right = right * np.array([[1], [1], [-1], [-1]])
    accuracy = dataset.accuracy(np.stack([right, half_right, -right]), "train")
    np.testing.assert_array_equal(accuracy, [1, 0.5, 0])


def test_accuracy_compares_the_largest_of_several_outputs_with_the_split():
    dataset = digits(classes=(0, 1, 2), n_train=7, n_test=5)
    assert dataset.accuracy(dataset.y_test + 10, "test") == 1
    assert dataset.accuracy(np.roll(dataset.y_test, 1, axis=-1), "test") == 0


def test_regression_has_no_accuracy():
    dataset = diabetes()
    assert dataset.accuracy(dataset.y_test, "test") is None


def test_too_many_examples_are_refused_with_the_number_there_are():
    with pytest.raises(ValueError, match="n_train=300 and n_test=58 need 358.*has 357"):
        digits(n_train=300, n_test=58)
    with pytest.raises(ValueError, match="n_train=442 and n_test=1 need 443.*has 442"):
        diabetes(n_train=442, n_test=1)


@pytest.mark.parametrize("classes", [[3], [3, 3], [3, 11], []])
def test_classes_that_make_no_task_are_refused(classes):
    with pytest.raises(
        ValueError, match="at least two different labels out of.*0, 1, 2"
    ):
        digits(classes=classes)


def test_an_unknown_data_set_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no data set `mnist`.*digits, iris.*diabetes"):
        datasets.build(DatasetConfig("mnist", 0))


def test_only_a_picture_can_be_put_back():
    with pytest.raises(
        ValueError, match="`teacher` is not a picture; only dataset=image"
    ):
        datasets.to_picture(teacher(), np.zeros((40, 1)), np.zeros((30, 1)))
