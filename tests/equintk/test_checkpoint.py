"""Finished tiles on disk: a killed computation goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import equintk as nt
from equintk import _checkpoint, _schedule
from equintk._batch import pairwise
from equintk._checkpoint import Checkpoint, StoredTiles, fingerprint
from tests.equintk import test_batch as simple

ROOT = Path(__file__).parent.parent.parent
NOTHING = lambda done, total: None


@pytest.fixture
def x():
    return jr.normal(jr.key(0), (40, 3))


def computed(directory, x, x2=None, weight=2.0, power=1, batch_size=4, **facts):
    """A kernel, and how many of its tiles and of its features were computed."""
    weight = jnp.asarray(weight)
    programs = simple.Counting(
        lambda weight, block: ((), {"phi": jnp.sin(weight * block) ** power}),
        lambda shared, one, two: one["phi"] @ two["phi"].T,
        np.transpose,
    )
    facts = {"the parameters": weight, "the kernel": "ntk", **facts}
    kernel = pairwise(
        programs, weight, x, x2, batch_size, NOTHING,
        checkpoint=None if directory is None else Checkpoint(directory, facts),
    )  # fmt: skip
    return kernel, {"features": len(programs.calls), "tiles": programs.n_tiles}


def tiles_in(directory):
    return sorted(directory.glob("tile_*.bin"))


@pytest.mark.parametrize("with_x2", [False, True])
def test_a_finished_kernel_is_read_back_without_computing(tmp_path, x, with_x2):
    x2 = x[:7] + 1.0 if with_x2 else None
    plain, _ = computed(None, x, x2)
    first, calls = computed(tmp_path, x, x2)
    assert calls["tiles"] == len(tiles_in(tmp_path)) > 3
    again, calls = computed(tmp_path, x, x2)
    assert calls == {"features": 0, "tiles": 0}
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(again, plain)


def test_only_missing_tiles_and_their_features_are_computed(tmp_path, x):
    plain, _ = computed(tmp_path, x)
    missing = tmp_path / "tile_00001_00002.bin"
    missing.unlink()
    again, calls = computed(tmp_path, x)
    blocks = _schedule.side(40, 4, 24, 16).blocks_per_tile
    assert calls == {"features": 2 * blocks, "tiles": 1} and missing.exists()
    np.testing.assert_array_equal(again, plain)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    ],
    ids=["short", "only a head", "empty", "long", "one bit"],
)
def test_a_damaged_tile_is_computed_again(tmp_path, x, damage):
    plain, _ = computed(tmp_path, x)
    tile = tmp_path / "tile_00000_00001.bin"
    whole = tile.read_bytes()
    tile.write_bytes(damage(whole))
    again, calls = computed(tmp_path, x)
    assert calls["tiles"] == 1 and tile.read_bytes() == whole
    np.testing.assert_array_equal(again, plain)


def test_a_tile_under_another_ones_name_is_not_used(tmp_path, x):
    plain, _ = computed(tmp_path, x)
    (tmp_path / "tile_00000_00001.bin").write_bytes(
        (tmp_path / "tile_00000_00002.bin").read_bytes()
    )
    again, calls = computed(tmp_path, x)
    assert calls["tiles"] == 1
    np.testing.assert_array_equal(again, plain)


def test_a_tile_of_another_kernel_is_not_used(tmp_path):
    tile = np.arange(6.0).reshape(2, 3)
    StoredTiles(tmp_path, b"one").save(0, 0, tile)
    np.testing.assert_array_equal(StoredTiles(tmp_path, b"one").load(0, 0, tile), tile)
    assert StoredTiles(tmp_path, b"two").load(0, 0, tile) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
def test_tiles_come_back_with_their_dtype_and_structure(tmp_path, dtype):
    tile = {"a": jnp.ones((2, 3), dtype), "b": [jnp.arange(2.0)]}
    StoredTiles(tmp_path, b"key").save(3, 4, tile)
    got = StoredTiles(tmp_path, b"key").load(3, 4, tile)
    assert got is not None
    simple.assert_equal(got, jax.tree.map(np.asarray, tile))
    assert got["a"].dtype == dtype


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weight": 3.0}, "the parameters"),
        ({"x": 1}, "x1"),
        ({"x2": jnp.ones((2, 3))}, "x2"),
        ({"batch_size": 5}, "batch_size"),
        ({"power": 2}, "what the model and the kernel compute"),
        ({"precision": "high"}, "precision"),
        ({"the kernel": "ntk_full"}, "the kernel"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_kernel_in_one_directory_is_refused_and_named(
    tmp_path, x, change, named
):
    computed(tmp_path, x, precision="highest")
    change = {"precision": "highest", **change}
    changed = x + change.pop("x", 0)
    with pytest.raises(ValueError, match=f"What differs: .*{named}.*_2") as error:
        computed(tmp_path, changed, **change)
    others = {"the parameters", "x1", "precision", "the kernel"} - {named}
    assert not [name for name in others if f" {name}," in str(error.value)]


@pytest.mark.parametrize(("which", "module"), [("jax", jax), ("equintk", _checkpoint)])
def test_another_version_is_refused(tmp_path, x, monkeypatch, which, module):
    computed(tmp_path, x)
    monkeypatch.setattr(module, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=f"differs: the version of {which}"):
        computed(tmp_path, x)


def test_a_directory_that_is_a_file_is_refused(tmp_path, x):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="must be a directory.*new directory"):
            computed(path, x)
    with pytest.raises(ValueError, match="path of a directory, but it is int"):
        Checkpoint(3, {})


def test_an_unreadable_manifest_is_refused(tmp_path, x):
    computed(tmp_path, x)
    manifest = tmp_path / "kernel.json"
    manifest.write_text(manifest.read_text()[:20])
    with pytest.raises(ValueError, match="cannot be read.*delete this one"):
        computed(tmp_path, x)


def test_a_checkpoint_under_a_transformation_is_refused(tmp_path, x):
    with pytest.raises(ValueError, match="`checkpoint` needs numbers.*outside"):
        jax.jit(lambda x: computed(tmp_path, x)[0])(x)
    with pytest.raises(ValueError, match="`checkpoint` needs numbers.*outside"):
        jax.grad(lambda w: jnp.sum(computed(tmp_path, x, weight=w)[0]))(2.0)
    assert not list(tmp_path.iterdir())


def test_fingerprints_tell_arrays_apart_and_forget_addresses():
    trees = [
        jnp.arange(4.0), jnp.arange(4.0).reshape(2, 2), np.arange(4),
        {"a": np.arange(4)}, jr.key(0), jr.key(1), 1.0, 1, "1", None, [None, 1],
    ]  # fmt: skip
    assert len({fingerprint(tree) for tree in trees}) == len(trees)
    assert fingerprint(np.arange(4.0)) == fingerprint(jnp.arange(4.0))
    make = lambda: lambda: None
    first, second = make(), make()
    assert repr(first) != repr(second) and fingerprint(first) == fingerprint(second)


def network(activation=jnp.tanh, key=0):
    return eqx.nn.MLP(3, 2, 4, 1, activation=activation, key=jr.key(key))


TANGENT = """
import sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import equintk as nt
from equintk._checkpoint import StoredTiles
from tests.equintk.test_checkpoint import inputs, network
saved = []
save = StoredTiles.save
StoredTiles.save = lambda self, *tile: (saved.append(tile), save(self, *tile))
kernel = nt.ntk_full(network(), inputs(), batch_size=4, checkpoint=sys.argv[1])
np.save(sys.argv[2], kernel)
print(len(saved))
"""


def test_another_process_reads_a_tangent_kernel_back(tmp_path):
    # so no address, order of a set or the like enters what a kernel is known by
    results = [tmp_path / "one.npy", tmp_path / "two.npy"]
    counts = [finished(start(tmp_path / "t", "", r, code=TANGENT)) for r in results]
    assert counts[0] > 3 and counts[1] == 0
    one, two = (np.load(result) for result in results)
    np.testing.assert_array_equal(one, two)
    simple.assert_close(one, nt.ntk_full(network(), inputs()))


def test_what_differs_of_a_tangent_kernel_is_named(tmp_path, x):
    nt.ntk(network(), x, checkpoint=tmp_path)
    nt.ntk(network(), x, checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="differs: what the model and the kernel"):
        nt.ntk(network(jnp.sin), x, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="differs: the parameters"):
        nt.ntk(network(key=1), x, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="differs: the kernel"):
        nt.ntk_full(network(), x, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="differs: .*`precision`"):
        nt.ntk(network(), x, precision="default", checkpoint=tmp_path)


SLOWLY = """
import sys, time
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from tests.equintk.test_checkpoint import computed, inputs
from equintk._checkpoint import StoredTiles
pause = float(sys.argv[3])
save = StoredTiles.save

def slowly(self, i, j, tile):
    save(self, i, j, tile)
    time.sleep(pause)

StoredTiles.save = slowly
kernel, calls = computed(sys.argv[1], inputs())
np.save(sys.argv[2], kernel)
print(calls["tiles"])
"""


def inputs():
    return jnp.asarray(np.random.default_rng(0).standard_normal((40, 3)))


def start(directory, pause, result, code=SLOWLY):
    arguments = [str(argument) for argument in (directory, result, pause)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process):
    try:
        said, complaint = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, complaint
    return int(said)


def test_a_killed_computation_goes_on_and_gives_the_same_bits(tmp_path):
    whole = finished(start(tmp_path / "other", 0, tmp_path / "whole.npy"))
    killed = start(tmp_path / "tiles", 0.2, tmp_path / "killed.npy")
    while len(tiles_in(tmp_path / "tiles")) < 3:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    n_done = len(tiles_in(tmp_path / "tiles"))
    assert 3 <= n_done < whole and not (tmp_path / "killed.npy").exists()
    n_rest = finished(start(tmp_path / "tiles", 0, tmp_path / "resumed.npy"))
    assert n_rest == whole - n_done
    np.testing.assert_array_equal(
        np.load(tmp_path / "resumed.npy"), np.load(tmp_path / "whole.npy")
    )


def test_two_processes_may_share_a_directory(tmp_path):
    results = [tmp_path / "one.npy", tmp_path / "two.npy"]
    both = [start(tmp_path / "tiles", 0.02, result) for result in results]
    for process in both:
        finished(process)
    one, two = (np.load(result) for result in results)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, computed(tmp_path / "tiles", inputs())[0])
    json.loads((tmp_path / "tiles" / "kernel.json").read_text())
    assert not list((tmp_path / "tiles").glob("*.tmp"))
