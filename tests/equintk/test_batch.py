"""The block driver, on features so simple that the kernel is known."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
from jax.core import Tracer

import equintk as nt
from equintk import _schedule
from equintk._batch import pairwise
from equintk._checks import finite_result
from equintk._programs import Programs
from equintk._schedule import Group, Side, evaluations, schedule, side
from tests.helpers import assert_close

SIZES = [(1, 1), (2, 32), (5, 2), (7, 3), (8, 8), (33, 32), (100, 6)]


def features(two, x):
    """What every kernel here is made of; `shared` is the same for all blocks."""
    return two, {"phi": jnp.concatenate([x, jnp.cos(x)], axis=1)}


def kernel(shared, one, two):
    gram = shared * one["phi"] @ two["phi"].T
    coupled = jnp.einsum("ia,jb->ijab", one["phi"], two["phi"])
    return {"gram": gram, "coupled": coupled}


def flip(block):
    return {
        "gram": block["gram"].T,
        "coupled": block["coupled"].transpose(1, 0, 3, 2),
    }


def expected(x1, x2=None):
    x2 = x1 if x2 is None else x2
    one, two = (np.concatenate([x, np.cos(x)], axis=1) for x in (x1, x2))
    return {
        "gram": 2 * one @ two.T,
        "coupled": np.einsum("ia,jb->ijab", one, two),
    }


def nothing(done, total):
    pass


class Counting(Programs):
    """How many examples its features are asked of, and how often it makes a tile."""

    def __init__(self, *functions):
        super().__init__(*functions)
        self.calls, self.n_tiles = [], 0
        features, tile = self.features, self.tile

        def counted_features(arrays, x):
            if not isinstance(jtu.tree_leaves(x)[0], Tracer):
                self.calls.append(jtu.tree_leaves(x)[0].shape[0])
            return features(arrays, x)

        def counted_tile(shared, one, two, is_same):
            self.n_tiles += not isinstance(jtu.tree_leaves(one)[0], Tracer)
            return tile(shared, one, two, is_same)

        self.features, self.tile = counted_features, counted_tile


PROGRAMS = Programs(features, kernel, flip)


def driver(x1, x2=None, batch_size=32, report=nothing, programs=PROGRAMS, **options):
    return pairwise(programs, jnp.asarray(2.0), x1, x2, batch_size, report, **options)


def assert_same(got, wanted):
    assert jtu.tree_structure(got) == jtu.tree_structure(wanted)
    jtu.tree_map(assert_close, got, wanted)


def assert_equal(got, wanted):
    """To the last bit."""
    assert jtu.tree_structure(got) == jtu.tree_structure(wanted)
    jtu.tree_map(np.testing.assert_array_equal, got, wanted)


@pytest.fixture(params=["all features fit", "few fit", "none fit"])
def budget(request, monkeypatch):
    """How many bytes of features may be held; an example's are 48 bytes."""
    budget = {"all features fit": 2**29, "few fit": 48 * 60, "none fit": 1}
    monkeypatch.setattr(_schedule, "FEATURE_BYTES", budget[request.param])
    monkeypatch.setattr("equintk._batch.FEATURE_BYTES", budget[request.param])


@pytest.mark.parametrize("out", ["device", "host"])
@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_every_size_gives_the_kernel_of_all_pairs(n, batch_size, out, budget, getkey):
    x1, x2 = jr.normal(getkey(), (n, 3)), jr.normal(getkey(), (11, 3))
    for other in (None, x2):
        got = driver(x1, other, batch_size, out=out)
        assert_same(got, expected(x1, other))
        kinds = {type(leaf) for leaf in jtu.tree_leaves(got)}
        assert kinds == {np.ndarray} if out == "host" else np.ndarray not in kinds


@pytest.mark.parametrize(("n", "batch_size"), SIZES)
def test_one_side_gives_exactly_its_own_flip(n, batch_size, budget, getkey):
    got = driver(jr.normal(getkey(), (n, 3)), None, batch_size)
    assert_equal(flip(got), got)


@pytest.mark.parametrize(("n", "batch_size"), [(5, 2), (7, 3), (8, 8), (100, 6)])
def test_programs_put_together_on_an_accelerator_what_numpy_does_here(
    n, batch_size, getkey, monkeypatch
):
    x1, x2 = jr.normal(getkey(), (n, 3)), jr.normal(getkey(), (11, 3))
    here = [driver(x1, other, batch_size) for other in (None, x2)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    there = [driver(x1, other, batch_size) for other in (None, x2)]
    assert_same(there, here)
    assert_equal(flip(there[0]), there[0])
    assert not any(isinstance(leaf, np.ndarray) for leaf in jtu.tree_leaves(here))


def test_numpy_s_array_becomes_the_kernel_without_a_copy():
    from equintk._assembly import _aligned, on_device

    made = _aligned((33, 33), np.dtype(np.float64))
    made[:] = 1.0
    (kernel,) = on_device([made], [jnp.ones((2, 2))])
    assert kernel.unsafe_buffer_pointer() == made.ctypes.data


def test_the_kernel_is_symmetric_even_where_rounding_is_not(getkey):
    def rounds_by_position(shared, one, two):
        product = one["phi"] @ two["phi"].T
        return product + 1e-14 * jnp.linspace(0, 1, product.size).reshape(product.shape)

    x = jr.normal(getkey(), (21, 3))
    programs = Programs(features, rounds_by_position, np.transpose)
    for batch_size in (4, 32):
        got = driver(x, None, batch_size, programs=programs)
        np.testing.assert_array_equal(got, got.T)


@pytest.mark.parametrize("n", [7, 32, 33, 100, 1000])
def test_features_and_kernel_compile_once_for_one_batch(n, getkey):
    shapes = []

    def features(arrays, x):
        shapes.append(("features", x.shape))
        return (), x

    def kernel(shared, one, two):
        shapes.append(("kernel", one.shape, two.shape))
        return one @ two.T

    programs = Programs(features, kernel, np.transpose)
    for _ in range(2):
        driver(jr.normal(getkey(), (n, 3)), programs=programs)
    assert [kind for kind, *_ in shapes] == ["features", "kernel"]
    if n >= 32:
        assert shapes[0] == ("features", (32, 3))


@pytest.mark.parametrize(("n", "batch_size"), [(9, 8), (64, 8), (100, 8), (1000, 32)])
def test_features_of_each_example_are_computed_once_when_they_fit(
    n, batch_size, getkey
):
    programs = Counting(features, kernel, flip)
    driver(jr.normal(getkey(), (n, 3)), None, batch_size, programs=programs)
    seen = programs.calls
    tiles = side(n, min(n, batch_size), 48, 16).n_tiles
    assert max(seen) <= batch_size
    assert sum(seen) < n + tiles * batch_size  # one block's copies for each tile


def test_what_is_recomputed_is_what_was_counted(budget, getkey):
    programs = Counting(features, kernel, flip)
    calls = programs.calls
    x1, x2 = jr.normal(getkey(), (50, 3)), jr.normal(getkey(), (90, 3))
    for other in (None, x2):
        calls.clear()
        driver(x1, other, 4, programs=programs)
        xs = [x1] if other is None else [x1, other]
        sides = [side(x.shape[0], 4, 48, 16) for x in xs]
        groups = schedule(sides[0], sides[1] if other is not None else None, 48)
        # the first block is computed twice at most: to measure it, and in its tile
        assert sum(calls) - evaluations(groups, sides) in (0, 4)


def test_the_side_whose_features_are_held_is_the_one_that_recomputes_less():
    few, many = Side(40, 10, 10), Side(1000, 10, 10)
    for one, two, held_side in ((few, many, 0), (many, few, 1)):
        groups = schedule(one, two, example_bytes=1, budget=100)
        assert len(groups) == 1 and {s for s, _ in groups[0].held} == {held_side}
        assert evaluations(groups, [one, two]) == 1040


@pytest.mark.parametrize("budget_tiles", [1, 3, 4, 6, 100])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_schedule_has_each_tile_once_and_holds_what_it_may(budget_tiles, symmetric):
    one, two = Side(95, 5, 10), None if symmetric else Side(60, 5, 10)
    groups = schedule(one, two, example_bytes=1, budget=10 * budget_tiles)
    pairs = [pair for group in groups for pair in group.pairs]
    rows, columns = one.n_tiles, (two or one).n_tiles
    wanted = [
        (i, j) for i in range(rows) for j in range(columns) if not symmetric or i <= j
    ]
    assert sorted(pairs) == wanted
    assert all(len(g.held) <= max(1, budget_tiles) or len(groups) == 1 for g in groups)
    if symmetric:  # where the last tiles overlap, the diagonal one is written last
        order = {pair: k for k, pair in enumerate(pairs)}
        assert all(order[j, j] > order[j - 1, j] for j in range(1, rows))


@pytest.mark.parametrize("n", [1, 5, 33, 1000, 20_000, 100_000])
@pytest.mark.parametrize("pair_bytes", [4, 1000, 10**6, 10**9])
def test_tiles_are_bounded_by_memory_and_cover_all_examples(n, pair_bytes):
    block = _schedule.block_size(n, 32, pair_bytes)
    tiles = side(n, block, 1000, pair_bytes)
    assert tiles.tile**2 * pair_bytes <= 2**26 or tiles.tile == 1
    assert tiles.tile <= max(32, n // 4)
    covered = [tiles.start(i) + tiles.tile for i in range(tiles.n_tiles)]
    assert covered[-1] == n and min(tiles.start(i) for i in range(tiles.n_tiles)) == 0
    assert sum(tiles.n_new(i) for i in range(tiles.n_tiles)) == n
    assert tiles.n_tiles * tiles.tile - n < tiles.n_tiles


def test_a_small_kernel_is_cut_in_halves_where_its_features_are_large():
    assert side(96, 16, 10**6, 16).n_tiles == 2
    assert side(96, 16, 1000, 16).n_tiles == 6


def test_few_blocks_are_tiles_unless_the_other_side_has_many():
    assert side(64, 16, 10**6, 16).tile == 16
    assert side(64, 16, 10**6, 16, n_others=96).tile == 32


def test_a_large_batch_takes_few_calls_of_the_kernel():
    tiles = side(20_000, 32, 28_000, 16)
    assert tiles.n_tiles * (tiles.n_tiles + 1) // 2 < 1000


def test_progress_counts_each_tile_once(getkey):
    seen = []
    x = jr.normal(getkey(), (40, 3))
    driver(x, None, 4, lambda done, total: seen.append((done, total)))
    n_tiles = side(40, 4, 48, 16).n_tiles
    total = n_tiles * (n_tiles + 1) // 2
    assert total > 1 and seen == [(k, total) for k in range(1, total + 1)]


def test_transformations_of_the_caller_give_the_same_numbers(budget, getkey):
    x1, x2 = jr.normal(getkey(), (9, 3)), jr.normal(getkey(), (5, 3))
    for other in (None, x2):
        compute = functools.partial(driver, x2=other, batch_size=2)
        plain = compute(x1)
        assert_same(jax.jit(compute)(x1), plain)
        stacked = jax.vmap(compute)(jnp.stack([x2, x1[:5]]))
        part = compute(x1[:5])
        assert_same(jtu.tree_map(lambda a: a[1], stacked), part)

        total = lambda x, other=other: jnp.sum(driver(x, other, 2)["gram"] ** 2)
        whole = lambda x, other=other: jnp.sum(
            kernel(*features(2.0, x), features(2.0, x if other is None else other)[1])[
                "gram"
            ]
            ** 2
        )
        assert_close(jax.grad(total)(x1), jax.grad(whole)(x1))


def test_a_symmetric_kernel_is_symmetric_under_jit(getkey):
    x = jr.normal(getkey(), (9, 3))
    got = jax.jit(functools.partial(driver, batch_size=2))(x)
    assert_equal(flip(got), got)


@pytest.mark.parametrize("batch_size", [2, 32])
@pytest.mark.parametrize("closes_over", [True, False])
def test_derivatives_by_what_the_features_are_of_are_right(
    batch_size, closes_over, getkey
):
    x = jr.normal(getkey(), (7, 3))
    product = lambda shared, one, two: one @ two.T

    def total(scale):
        features = lambda arrays, block: (
            (),
            (scale if closes_over else arrays) * block,
        )
        programs = Programs(features, product, np.transpose)
        return jnp.sum(pairwise(programs, scale, x, None, batch_size, nothing))

    assert_close(jax.grad(total)(3.0), 6.0 * jnp.sum(x @ x.T))


@pytest.mark.parametrize("out", ["device", "host"])
@pytest.mark.parametrize("batch_size", [2, 32])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_kernel_that_is_not_finite_is_seen(batch_size, out, bad, getkey):
    x = jr.normal(getkey(), (9, 3))
    features = lambda arrays, block: ((), block + arrays)
    product = lambda shared, one, two: one @ two.T
    programs = Programs(features, product, np.transpose)
    for other in (None, x[:4]):
        for number, is_finite in ((1.0, True), (bad, False)):
            arrays = jnp.asarray(number)
            got = pairwise(programs, arrays, x, other, batch_size, nothing, out=out)
            if is_finite:
                assert finite_result("A kernel", got) is got
            else:
                with pytest.raises(ValueError, match="A kernel with .* NaN"):
                    finite_result("A kernel", got)


def test_host_memory_under_a_transformation_is_refused(getkey):
    x = jr.normal(getkey(), (7, 3))
    with pytest.raises(ValueError, match='`out="host"` needs numbers.*outside'):
        jax.jit(lambda x: driver(x, out="host"))(x)


def test_another_place_for_the_result_is_refused(getkey):
    with pytest.raises(ValueError, match='"device" or "host", but it is \'disk\''):
        driver(jnp.ones((3, 3)), out="disk")


def test_a_kernel_in_place_is_written_where_it_lies(getkey):
    # Donation is what keeps the memory at one kernel; unused, it would warn, and
    # warnings are errors here.
    from equintk._assembly import OnAccelerator

    tiles = Side(8, 2, 2)
    programs = Programs(features, kernel, np.transpose)
    assembly = OnAccelerator(programs, tiles, tiles)
    assembly.write(0, 0, jnp.ones((2, 2)))
    before = assembly.result()
    assembly.write(1, 3, jnp.ones((2, 2)))
    assert before.is_deleted()
    assert float(jnp.sum(assembly.result()[2:4, 6:8])) == 4.0


def test_features_are_kept_for_their_group_and_one_tile_longer():
    cache = _schedule.Cache()
    cache.enter(Group(frozenset({(0, 0)}), ()))
    assert cache.get((0, 0), lambda: "held") == "held"
    assert cache.get((0, 1), lambda: "passing") == "passing"
    assert cache.get((0, 0), lambda: "made anew") == "held"
    assert cache.get((0, 2), lambda: "next") == "next"
    assert cache.get((0, 1), lambda: "made anew") == "made anew"
    cache.enter(Group(frozenset({(0, 1)}), ()))
    assert cache.get((0, 1), lambda: "lost") == "made anew"
    assert cache.get((0, 0), lambda: "let go") == "let go"


def test_several_tiles_give_the_tangent_kernel(getkey):
    import equinox as eqx

    model = eqx.nn.MLP(3, 2, 8, 1, activation=jnp.tanh, key=getkey())
    x = jr.normal(getkey(), (37, 3))
    assert_close(nt.ntk_full(model, x, batch_size=3), nt.ntk_full(model, x, x, 37))
