# matplotlib's and pandas' own annotations leave open what an artist is:
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportUnhashable=false

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from experiments.figures import along_x, spectrum, through_training, x_columns
from experiments.figures.style import PALETTE
from experiments.question import AnalysisConfig, ExpectationConfig
from experiments.reading import load_runs
from tests.experiments.fake_runs import write_study

WIDTHS = (32, 64, 128, 256)
LAYERS = ("input", "hidden[0]", "readout")
EXPECT = {
    "divergence": ExpectationConfig("relative_divergence_test", slope=[-1.25, -0.65]),
    "drift": ExpectationConfig("kernel_drift", value=[None, 0.2], x_from=100),
} | {
    layer: ExpectationConfig(f"movement_relative/{layer}", slope=[-1.2, -0.4])
    for layer in LAYERS
}
ASKED = AnalysisConfig(x="model.width", x_from=64, expect=EXPECT)


def drawn(summaries, asked=ASKED, x="model.width"):
    return along_x(summaries, asked, x)


def legend_of(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def figure_legend(figure):
    return [text.get_text() for text in figure.legends[0].texts]


def points_of(axes):
    """What is drawn as single runs: faint, without a line."""
    return [line for line in axes.lines if line.get_alpha() == 0.5]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    write_study(path, WIDTHS)
    return load_runs(path)


def test_a_panel_for_each_metric_expected_with_layers_together(study):
    divergence, drift, layers = drawn(study[0]).axes
    assert divergence.get_title() == "relative divergence, test"
    assert layers.get_title() == "relative movement of each layer"
    assert [t.split(":")[0] for t in legend_of(layers)] == list(LAYERS)
    assert len(points_of(layers)) == 3 and len(points_of(drift)) == 1
    assert legend_of(divergence)[0].startswith("slope −0.")
    assert divergence.get_xlabel() == "width (units per hidden layer)"
    assert divergence.get_xscale() == divergence.get_yscale() == "log"


def test_every_run_is_a_point_and_every_width_has_a_mean_with_its_interval(study):
    axes = drawn(study[0]).axes[1]
    (points,) = points_of(axes)
    assert len(points.get_xdata()) == len(study[0])
    (bars,) = (c for c in axes.collections if "Line" in type(c).__name__)
    drift = study[0].loc[study[0]["model.width"] == 64, "kernel_drift"].to_numpy()
    half = 4.302652729911275 * drift.std(ddof=1) / np.sqrt(3)
    bar = next(s for s in bars.get_segments() if s[0, 0] == 64)
    np.testing.assert_allclose(bar[:, 1], [drift.mean() - half, drift.mean() + half])


def test_a_law_is_drawn_where_it_is_expected_in_a_wedge_of_its_slopes(study):
    axes = drawn(study[0]).axes[0]
    law = max(axes.lines, key=lambda line: len(line.get_xdata()))
    x, y = law.get_xdata(), law.get_ydata()
    assert (x[0], x[-1]) == pytest.approx((64, 256))
    slope = np.log(y[-1] / y[0]) / np.log(x[-1] / x[0])
    assert legend_of(axes)[0].startswith(f"slope −{-slope:.2f} [")
    assert any("FillBetween" in type(c).__name__ for c in axes.collections)


def test_an_expected_value_is_shaded_over_the_runs_it_is_said_of(study):
    axes = drawn(study[0]).axes[1]
    (edge,) = (line for line in axes.lines if line.get_linestyle() == ":")
    assert list(edge.get_xdata()) == [128, 256] and set(edge.get_ydata()) == {0.2}


def test_what_a_metric_is_relative_to_is_drawn_as_a_line(study):
    expect = {
        "law": ExpectationConfig(
            "rmse_test", relative_to="kernel_drift", value=[0.5, 2]
        )
    }
    (axes,) = drawn(study[0], AnalysisConfig(x="model.width", expect=expect)).axes
    assert "kernel drift" in legend_of(axes)
    law = next(line for line in axes.lines if line.get_label() == "kernel drift")
    means = study[0].groupby("model.width")["kernel_drift"].mean()
    np.testing.assert_allclose(law.get_ydata(), means)


def test_a_study_that_expects_nothing_shows_usual_metrics_with_their_laws(study):
    axes = drawn(study[0], AnalysisConfig(x="model.width")).axes
    assert [one.get_title() for one in axes] == [
        "relative divergence, test", "kernel drift", "relative movement, all"
    ]  # fmt: skip
    assert all(legend_of(one)[0].startswith("slope") for one in axes)


def test_a_swept_name_sets_colour_and_marker(tmp_path):
    for scheme in ("ntk", "standard"):
        write_study(tmp_path, WIDTHS, config={"parameterization.scheme": scheme})
    figure = drawn(load_runs(tmp_path)[0])
    assert figure_legend(figure) == ["parameterization", "ntk", "standard"]
    points = points_of(figure.axes[0])
    assert [line.get_color() for line in points] == list(PALETTE[:2])
    assert len({line.get_marker() for line in points}) == 2


def test_a_second_swept_key_has_a_panel_for_each_value_on_one_scale(tmp_path):
    for depth in (1, 2, 3):
        for scheme in ("ntk", "standard"):
            config = {"parameterization.scheme": scheme, "model.depth": depth}
            write_study(tmp_path, WIDTHS[:2], 1, config=config)
    asked = AnalysisConfig(x="model.width", show=["kernel_drift"])
    figure = drawn(load_runs(tmp_path)[0], asked)
    assert [axes.get_title() for axes in figure.axes] == [
        "kernel drift: ntk", "kernel drift: standard"
    ]  # fmt: skip
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert figure_legend(figure) == ["depth", "1", "2", "3"]


def test_names_on_the_horizontal_axis_stand_side_by_side(tmp_path):
    for name in ("mlp", "cnn"):
        write_study(tmp_path, [32], config={"model.name": name})
    summaries = load_runs(tmp_path)[0]
    assert x_columns(summaries, AnalysisConfig()) == ["model.name"]
    axes = drawn(summaries, AnalysisConfig(), "model.name").axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["cnn", "mlp"]
    assert axes.get_xlabel() == "model"


def test_more_values_than_colours_are_thinned_and_the_legend_says_so(tmp_path):
    write_study(tmp_path, range(10, 22), seeds=1)
    summaries, curves = load_runs(tmp_path)
    figure = through_training(curves, summaries)
    texts = figure_legend(figure)
    assert texts[0] == "width (9 of 12 shown)"
    assert texts[1] == "10" and texts[-1] == "21"
    assert len(figure.axes[0].lines) == 9


def test_what_cannot_be_fitted_is_drawn_as_points(tmp_path):
    write_study(tmp_path, [32, 64], seeds=1)
    axes = drawn(load_runs(tmp_path)[0]).axes[0]
    assert legend_of(axes) == [] and axes.lines[0].get_alpha() == 0.9


def test_runs_without_a_metric_that_varies_have_no_figure(tmp_path):
    write_study(tmp_path, [32], seeds=2)
    summaries, curves = load_runs(tmp_path)
    assert x_columns(summaries, ASKED) == []
    assert through_training(curves.iloc[:0], summaries) is None
    assert spectrum(curves, summaries) is None
    assert along_x(summaries, AnalysisConfig(show=["gone"]), "model.width") is None


@pytest.mark.parametrize("depths", [[1], [*range(1, 4)]])
def test_legends_lie_above_all_points(tmp_path, depths):
    for depth in depths:
        write_study(tmp_path, WIDTHS, 1, config={"model.depth": depth})
    figure = drawn(load_runs(tmp_path)[0])
    figure.draw_without_rendering()
    for axes in figure.axes:
        if axes.get_legend() is None:
            continue
        foot = axes.get_legend().get_window_extent().y0
        for line in axes.lines:
            xy = np.column_stack([line.get_xdata(), line.get_ydata()])
            assert len(xy) == 0 or axes.transData.transform(xy)[:, 1].max() < foot


def test_training_has_a_panel_per_metric_and_a_line_per_value_swept(study):
    summaries, curves = study
    train, test = through_training(curves, summaries).axes
    assert train.get_title() == "relative divergence, train"
    assert len(test.lines) == len(WIDTHS) == len(test.collections)
    assert test.get_xscale() == test.get_yscale() == "log"
    (one,) = through_training(curves, summaries, ["relative_divergence_test"]).axes
    assert (
        one.get_ylabel().startswith(r"$\|f-p\|") and one.get_xlabel() == "training step"
    )


def test_a_line_is_the_median_over_seeds_without_step_zero(tmp_path):
    write_study(tmp_path, [32], seeds=3)
    summaries, curves = load_runs(tmp_path)
    (line,) = through_training(curves, summaries).axes[1].lines
    shown = curves[(curves["split"] == "test") & (curves["step"] > 0)]
    median = shown.groupby("step")["value"].median()
    np.testing.assert_array_equal(line.get_xdata(), median.index)
    np.testing.assert_array_equal(line.get_ydata(), median)


def test_each_network_that_was_trained_has_its_own_panel(tmp_path):
    write_study(tmp_path, [32])
    write_study(tmp_path, [32], network="readout", config={"kernel.name": "nngp"})
    summaries, curves = load_runs(tmp_path)
    titles = [axes.get_title() for axes in through_training(curves, summaries).axes]
    assert titles[2:] == [
        "relative divergence, test (all trained)",
        "relative divergence, test (readout trained)",
    ]


def test_eigenvalues_are_drawn_by_rank_at_the_first_and_the_last_step(study):
    summaries, curves = study
    eigenvalues = [
        curves.loc[curves["split"] == "test"].assign(
            metric=f"eigenvalue/{k}", value=2.0 / k
        )
        for k in (1, 2, 3)
    ]
    figure = spectrum(pd.concat(eigenvalues), summaries)
    axes = figure.axes[0]
    assert len(axes.lines) == 2 * len(WIDTHS)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [2, 1, 2 / 3])
    assert legend_of(axes) == ["step 256", "step 0"]


def test_saved_figures_are_neither_small_nor_blank(study, tmp_path):
    summaries, curves = study
    for figure in (through_training(curves, summaries), drawn(summaries)):
        figure.savefig(tmp_path / "figure.png")
        pixels = imread(tmp_path / "figure.png")
        assert min(pixels.shape[:2]) > 500 and pixels.std() > 0.05
