"""The benchmark's own arithmetic and errors; it times nothing."""

import csv
import dataclasses
import math
import sys

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
import pytest

from benchmarks import imports, loops, products
from benchmarks.kernels import environment, models, report, values
from benchmarks.kernels.__main__ import main, parse
from benchmarks.kernels.counts import dense, gram, operations
from benchmarks.kernels.rounds import Measured, Timing, Worker, relative_difference
from benchmarks.kernels.workloads import (
    LARGE,
    WORKLOADS,
    Layer,
    Net,
    by_name,
    mlp,
    resized,
    select,
)
from benchmarks.table import aligned


def test_operations_of_a_small_mlp_are_those_counted_by_hand():
    # 3-4-4-2 on 5 examples, 15 pairs. Forward: 2 (12 + 16 + 8) = 72 each. Backward for
    # 2 outputs, through the middle layer only: 2 * 2 * 16 = 64 each.
    net, once = mlp("relu", 3, 4, 4, 2), 5 * (72 + 64)
    # Products of activations and cotangents, per pair: averaged 2 (3 + 2*4),
    # 2 (4 + 2*4) and 2*4; coupled, four pairs of outputs instead of two.
    assert operations(net, 5) == once + 15 * (22 + 24 + 8)
    assert operations(net, 5, full=True) == once + 15 * (38 + 40 + 8)


def test_a_weight_shared_by_many_positions_is_cheaper_as_a_jacobian():
    # 100 positions of a 3 -> 4 map, 5 examples, 2 outputs.
    layer = Layer((4, 3), positions=100)
    assert dense(layer, 5, 2, False) == 5 * 2 * 2400 + 15 * 2 * 2 * 12
    assert gram(layer, 5, 2, False) == 15 * 2 * 100**2 * (3 + 8)
    net = Net("none", (100, 3), (layer, Layer((2, 4), is_output=True)))
    passes = 5 * (2400 + 2 * 2400 + 16)
    assert operations(net, 5) == passes + dense(layer, 5, 2, False) + 15 * 2 * 4


def test_products_of_activations_have_two_operands_to_go_back_to():
    net = mlp("relu", 3, 2)
    more = dataclasses.replace(net, products=7)
    assert operations(more, 5) - operations(net, 5) == 5 * 2 * 7 * (1 + 2 * 2)


@pytest.mark.parametrize(
    ("name", "giga"), [("a1024", 17.50), ("bfull", 32.69), ("c", 129.3), ("d", 17.22)]
)
def test_operations_of_the_workloads_are_near_an_independent_count(name, giga):
    # Counted with pencil and paper, the small terms of the last layer left out.
    workload = by_name(name)
    count = operations(workload.net, workload.n, workload.full) / 1e9
    assert abs(count / giga - 1) < 0.002


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_the_counted_layers_are_the_weights_of_the_model(workload):
    model = eqx.filter_eval_shape(models.build, workload.net)
    weights = [leaf.shape for leaf in jtu.tree_leaves(model) if leaf_is_weight(leaf)]
    if workload.net.kind == "vit":
        weights = [s for s in weights if s not in ((1, 64), (17, 64))]
    assert sorted(weights) == sorted(layer.shape for layer in workload.net.layers)


def leaf_is_weight(leaf):
    shape = getattr(leaf, "shape", ())
    return len([size for size in shape[1:] if size > 1]) >= 1


@pytest.mark.parametrize("name", ["a64", "h64", "d"])
def test_the_model_has_the_values_that_its_peers_get(name):
    net = by_name(name).net
    leaves = jtu.tree_leaves(eqx.filter(models.build(net), eqx.is_array))
    drawn = [array for pair in values.parameters(net) for array in pair]
    for leaf, array in zip(leaves, drawn, strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, array)


@pytest.mark.parametrize("name", ["a64", "a1024", "bfull", "c"])
def test_the_products_that_are_timed_are_those_of_the_floor(name):
    workload = by_name(name)
    listed = sum(
        share * 2.0 * math.prod(shape)
        for _, shape, share, _ in products.products(workload)
    )
    counted = operations(workload.net, workload.n, workload.full)
    # Of a triangle half, of the diagonal all.
    assert listed == pytest.approx(counted, rel=1 / workload.n)


def test_fewer_examples_are_the_first_ones():
    net = by_name("h64").net
    np.testing.assert_array_equal(values.examples(net, 3), values.examples(net, 5)[:3])


def test_a_letter_selects_all_that_start_with_it_once():
    assert [w.name for w in select("b,bfull, h64")] == ["b", "bfull", "h64"]
    with pytest.raises(ValueError, match="No workload is called 'z'. There are a64, "):
        select("a,z")


def test_values_are_compared_where_the_incumbent_is_right():
    assert by_name("a1024").check_n == 1023
    assert by_name("a256").check_n == 256


def test_a_block_is_never_larger_than_the_batch():
    assert resized(by_name("a1024"), 8, None).batch_size == 8
    assert resized(by_name("a1024"), None, 16).batch_size == 16


def test_the_command_line_chooses_workloads_and_their_sizes():
    options = parse(["--workloads", "g", "--n", "5", "--batch-size", "2"])
    assert [(w.name, w.n, w.batch_size) for w in options.workloads] == [("g", 5, 2)]
    (cnn,) = parse(
        ["--workloads", "d", "--without", "vector products, jacobian"]
    ).workloads[:1]
    assert cnn.methods == ("equintk", "structured", "per leaf")
    (large,) = parse(["--large"]).workloads
    assert large == LARGE
    assert parse(["--large", "9"]).repeats == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--workloads", "z"], "No workload is called 'z'"),
        (["--repeats", "0"], "0 is not a positive number"),
        (["--without", "all"], "No peer is called 'all'. There are structured, "),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_there_is(arguments, text, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert text in capsys.readouterr().err


def some_rows():
    """Two methods and the floor; the product does 10 operations in 1 CPU second."""
    ours = Measured("equintk", Timing(3.0, 2.0), [Timing(1.0, 0.5)] * 3, 10**9, 64)
    peer = Measured("structured", Timing(5.0, 3.0), [Timing(4.0, 2.0)], 2 * 10**9, 64)
    peer.difference = 0.5
    products = [Timing(1.0, 0.5), Timing(1.1, 0.6), Timing(0.9, 0.4)]
    return report.rows(by_name("a64"), [ours, peer], 5.0, products, 10.0)


def test_ratios_are_over_ours_and_over_the_floor():
    ours, peer, floor = some_rows()
    assert (ours["compile_cpu_s"], ours["compile_wall_s"]) == (2.0, 1.5)
    assert (peer["cpu_over_ours"], peer["wall_over_ours"]) == (4.0, 4.0)
    assert (peer["memory_over_ours"], peer["compile_cpu_over_ours"]) == (2.0, 0.5)
    assert (floor["cpu_s"], floor["cpu_max_s"]) == (0.5, 0.55)
    assert (ours["cpu_over_floor"], ours["wall_over_floor"]) == (2.0, 2.0)


def test_methods_that_disagree_or_die_are_complained_about():
    rows = some_rows()
    (said,) = report.complaints(rows)
    assert said.startswith("DIFFERS a64, structured") and said.endswith("> 1e-03")
    dead = Measured("jacobian", failure="stopped after 5 s")
    rows = report.rows(by_name("a64"), [dead], 5.0, [Timing(1.0, 1.0)], 10.0)
    assert report.complaints(rows) == ["FAILED a64, jacobian: stopped after 5 s"]
    assert "cpu_s" not in rows[0] and "-" in report.text(by_name("a64"), rows)


def test_every_column_of_a_row_is_written():
    assert all(set(row) <= set(report.COLUMNS) for row in some_rows())


def test_the_printed_table_has_one_aligned_line_for_each_row():
    heading, *lines = report.text(by_name("a64"), some_rows()).splitlines()
    assert heading == "a64: MLP 784-1024x3-1, N=64, averaged, batch_size=64"
    assert [line.split()[0] for line in lines[:4]] == [
        "method", "equintk", "structured", "floor",
    ]  # fmt: skip
    assert lines[2].split()[1:4] == ["4", "4..4", "4x"]


def test_the_large_kernel_is_told_from_the_memory_beside_it():
    once = Measured("equintk", Timing(200.0, 100.0), [], 2_400_000_000, 1_600_000_000)
    rows = report.rows(LARGE, [once], 5.0, [Timing(1.0, 1.0)], 10.0)
    assert "100 s wall, 200 CPU s" in report.large(rows[0])
    assert report.large(rows[0]).endswith("kernel 1.6 GB, peak memory above imports "
                                          "and the kernel 0.8 GB")  # fmt: skip


def test_columns_are_as_wide_as_their_widest_entry():
    assert aligned([["a", "bc"], ["long", "d"]]) == "a     bc\nlong   d"


def test_numbers_keep_three_digits_and_missing_ones_are_dashes():
    assert report.number(0.123456) == "0.123"
    assert report.number(1_234_567_890, 1e9) == "1.23"
    assert report.number(None) == "-"
    assert report.ratio({"x": 3.14159}, "x") == "3.1x"
    assert report.ratio({"x": 234.5}, "x") == "234x"


def test_kernels_of_other_shapes_differ_entirely():
    one = np.array([[3.0, 4.0]])
    assert relative_difference(one * 1.5, one) == 0.5
    assert relative_difference(one[:, :1], one) == 1.0


def test_the_ratio_of_import_times_is_the_median_over_rounds():
    text = imports.summary([(1.0, 1.0), (2.0, 2.0)] * 2, [(1.0, 2.0), (2.0, 4.0)] * 2)
    assert text.splitlines()[-1].split() == ["ratio", "1.00x", "2.00x"]


def test_a_finished_environment_is_used_as_it_is(tmp_path):
    stamp = "\n".join(environment.REQUIREMENTS) + "\n"
    (tmp_path / "benchmark.txt").write_text(stamp, encoding="utf-8")
    assert environment.ensure(tmp_path) == tmp_path / "bin" / "python"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(SystemExit, match="left alone. Pass another `--venv`"):
        environment.ensure(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_python_of_another_version_is_refused_with_the_fix():
    with pytest.raises(SystemExit, match="`no-such` is not one.*pass `--python /path"):
        environment.find_python("no-such")


def fake_worker(folder, script, limit):
    """A worker that is a shell script."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    return Worker(str(python), by_name("g"), "equintk", limit)


def test_a_call_beyond_its_limit_is_given_up(tmp_path):
    script = """echo '{"versions": "none"}'; exec sleep 600"""
    worker = fake_worker(tmp_path, script, limit=3)
    assert worker.versions == "none"
    with pytest.raises(RuntimeError, match="stopped after 3 s"):
        worker.ask(do="time")
    worker.close()


def test_a_dead_process_says_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match="died with 7: out of memory"):
        fake_worker(tmp_path, "echo 'out of memory' >&2; exit 7", limit=60)


@pytest.mark.slow
def test_a_workload_is_measured_compared_and_written(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    arguments = ["--workloads", "g", "--n", "3", "--repeats", "1", "--out", str(path)]
    assert main(arguments) == 0
    assert "g: GRU 64, 32 steps, N=3, averaged" in capsys.readouterr().out
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["equintk", "per leaf", "floor"]
    assert float(rows[1]["difference"]) < 1e-5


@pytest.mark.slow
def test_the_program_that_compiles_loops_runs_and_says_what_it_was_asked():
    version, seconds = loops.measure(sys.executable)
    assert version == jax.__version__
    assert list(seconds)[-1] == "d, both passes" and len(seconds) == 6
    assert seconds["d, both passes"] > 0
