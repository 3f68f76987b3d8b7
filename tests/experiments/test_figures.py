# matplotlib's own annotations leave open what an artist is:
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.figures import MAX_COLORS, divergence_figure, scaling_figure
from experiments.question import AnalysisConfig, ExpectationConfig
from experiments.reading import load_runs
from experiments.slopes import fittable_columns, scaling_table
from tests.experiments.fake_runs import write_study

WIDTHS = (32, 64, 128, 256)
BANDS = {"relative_divergence_test": [-1.25, -0.65], "movement_absolute/all": [-1, 1]}


def scaling(summaries, bands=None):
    names = fittable_columns(summaries)
    table = scaling_table(summaries, "model.width", 64, names)
    expect = {
        name: ExpectationConfig(name, slope=band)
        for name, band in (bands or {}).items()
    }
    asked = AnalysisConfig(x="model.width", x_from=64, expect=expect)
    return scaling_figure(summaries, table, asked)


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_divergence_has_a_line_per_value_swept_and_a_panel_per_split(tmp_path):
    write_study(tmp_path, WIDTHS)
    summaries, curves = load_runs(tmp_path)
    figure = divergence_figure(curves, summaries)
    train, test = figure.axes
    assert (train.get_title(), test.get_title()) == ("train examples", "test examples")
    assert len(test.lines) == len(WIDTHS) and len(test.collections) == len(WIDTHS)
    assert test.get_xscale() == test.get_yscale() == "log"
    assert [t.get_text() for t in figure.legends[0].texts] == [
        "width", *map(str, WIDTHS)
    ]  # fmt: skip


def test_a_line_is_the_median_over_seeds_without_step_zero(tmp_path):
    write_study(tmp_path, [32], seeds=3)
    summaries, curves = load_runs(tmp_path)
    (line,) = divergence_figure(curves, summaries).axes[1].lines
    median = (
        curves[(curves["split"] == "test") & (curves["step"] > 0)]
        .groupby("step")["value"]
        .median()
    )
    np.testing.assert_array_equal(line.get_xdata(), median.index)
    np.testing.assert_array_equal(line.get_ydata(), median)


def test_a_single_run_is_one_line_without_a_legend(tmp_path):
    write_study(tmp_path, [32], seeds=1)
    summaries, curves = load_runs(tmp_path)
    figure = divergence_figure(curves, summaries)
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    assert not figure.legends


def test_runs_without_divergence_give_empty_panels(tmp_path):
    write_study(tmp_path, [32], seeds=1)
    summaries, curves = load_runs(tmp_path)
    figure = divergence_figure(curves.iloc[:0], summaries)
    figure.savefig(tmp_path / "empty.png")
    assert [len(axes.lines) for axes in figure.axes] == [0, 0]


def test_two_swept_keys_are_told_apart_by_colour_and_by_dashes(tmp_path):
    for scheme in ("ntk", "standard"):
        write_study(tmp_path, WIDTHS, 1, config={"parameterization.scheme": scheme})
    summaries, curves = load_runs(tmp_path)
    axes = divergence_figure(curves, summaries).axes[0]
    assert len({tuple(line.get_color()) for line in axes.lines}) == len(WIDTHS)
    assert {line.get_linestyle() for line in axes.lines} == {"-", "--"}


def test_more_values_than_colours_are_thinned_and_the_legend_says_so(tmp_path):
    write_study(tmp_path, range(10, 22), seeds=1)
    summaries, curves = load_runs(tmp_path)
    figure = divergence_figure(curves, summaries)
    assert len(figure.axes[0].lines) == MAX_COLORS
    texts = [text.get_text() for text in figure.legends[0].texts]
    assert texts[0] == "width (9 of 12 shown)"
    assert texts[1] == "10" and texts[-1] == "21"


def test_each_network_that_was_trained_has_its_own_row(tmp_path):
    write_study(tmp_path, [32])
    write_study(tmp_path, [32], network="readout", config={"kernel.name": "nngp"})
    summaries, curves = load_runs(tmp_path)
    titles = [axes.get_title() for axes in divergence_figure(curves, summaries).axes]
    assert titles[1::2] == [
        "test examples (all trained)", "test examples (readout trained)"
    ]  # fmt: skip


def test_scaling_shows_points_laws_and_expected_slopes(tmp_path):
    write_study(tmp_path, WIDTHS)
    summaries, _ = load_runs(tmp_path)
    figure = scaling(summaries, BANDS)
    divergence, drift, layers, length = figure.axes
    assert len(layers.lines) == 2 * 4  # points and law of each layer
    assert [len(axes.lines) for axes in (divergence, drift, length)] == [2, 2, 2]
    points, law = divergence.lines
    assert len(points.get_xdata()) == len(summaries)
    assert list(law.get_xdata()) == [64, 256]
    assert [len(axes.collections) for axes in figure.axes] == [1, 0, 0, 1]  # wedges
    assert legend_of(divergence)[0].startswith("slope −0.") and divergence.get_xlabel()
    assert [text.split(":")[0] for text in legend_of(layers)] == [
        "input", "hidden[0]", "readout", "all"
    ]  # fmt: skip


def test_a_constant_is_drawn_on_one_decade_or_more(tmp_path):
    write_study(tmp_path, WIDTHS, noise=0.001)
    summaries, _ = load_runs(tmp_path)
    low, high = scaling(summaries).axes[3].get_ylim()
    assert high >= 9.99 * low


def test_scaling_fits_each_combination_of_the_other_keys(tmp_path):
    for depth in (1, 2):
        write_study(tmp_path, WIDTHS, config={"model.depth": depth})
    summaries, _ = load_runs(tmp_path)
    axes = scaling(summaries).axes[0]
    assert axes.get_legend().get_title().get_text() == "depth"
    assert [text.split(":")[0] for text in legend_of(axes)] == ["1", "2"]


def test_what_cannot_be_fitted_is_drawn_as_points(tmp_path):
    write_study(tmp_path, [32, 64], seeds=1)
    summaries, _ = load_runs(tmp_path)
    axes = scaling(summaries).axes[0]
    assert legend_of(axes) == ["no fit"]
    assert len(axes.lines[0].get_xdata()) == 2


@pytest.mark.parametrize("depths", [[1], [*range(1, 9)]])
def test_legends_lie_above_all_points(tmp_path, depths):
    for depth in depths:
        write_study(tmp_path, WIDTHS, 1, config={"model.depth": depth})
    summaries, _ = load_runs(tmp_path)
    figure = scaling(summaries, BANDS)
    figure.draw_without_rendering()
    for axes in figure.axes:
        foot = axes.get_legend().get_window_extent().y0
        for line in axes.lines:
            xy = np.column_stack([line.get_xdata(), line.get_ydata()])
            assert len(xy) == 0 or axes.transData.transform(xy)[:, 1].max() < foot


def test_saved_figures_are_neither_small_nor_blank(tmp_path):
    write_study(tmp_path / "runs", WIDTHS)
    summaries, curves = load_runs(tmp_path)
    for figure in (divergence_figure(curves, summaries), scaling(summaries)):
        figure.savefig(tmp_path / "figure.png")
        pixels = imread(tmp_path / "figure.png")
        assert min(pixels.shape[:2]) > 500 and pixels.std() > 0.05
