"""Kernels computed by several devices, and by several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equintk._batch import pairwise
from equintk._programs import Programs

ROOT = Path(__file__).parent.parent.parent

# What every process runs: the kernels of the mesh of all devices against those of one.
COMPARE = """
import sys
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
if len(sys.argv) > 2:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
    assert jax.process_count() == 2
from equintk import _schedule
from equintk._checkpoint import Checkpoint, StoredTiles
from tests.equintk import test_batch as simple

calls = []
mesh = jax.sharding.Mesh(jax.devices(), "tiles")
x1 = np.random.default_rng(0).standard_normal((45, 3))
x2 = np.random.default_rng(1).standard_normal((13, 3))
x1, x2 = jnp.asarray(x1), jnp.asarray(x2)
report = lambda done, total: calls.append((done, total))

def compare(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)

for budget in (2**29, 48 * 30)[: 3 - jax.process_count()]:
    _schedule.FEATURE_BYTES = budget
    for other in (None, x2):
        alone = simple.driver(x1, other, 4)
        calls.clear()
        spread = simple.driver(x1, other, 4, report, mesh=mesh)
        compare(spread, alone)
        assert calls == [(k + 1, len(calls)) for k in range(len(calls))] and calls
        compare(simple.driver(x1, other, 4, mesh=mesh, out="host"), alone)
        if other is None:
            jax.tree.map(np.testing.assert_array_equal, simple.flip(spread), spread)

# Tiles on disk: each process writes its own, and at the second call none is new.
saved = []
save = StoredTiles.save
StoredTiles.save = lambda self, *tile: (saved.append(tile[:2]), save(self, *tile))
kept = Checkpoint(sys.argv[1], {})
stored = lambda: simple.driver(x1, None, 4, mesh=mesh, checkpoint=kept)
first, n_first = stored(), len(saved)
n_tiles = _schedule.side(45, 4, 48, 16).n_tiles
n_tiles = n_tiles * (n_tiles + 1) // 2
assert abs(n_first * jax.process_count() - n_tiles) <= len(mesh.devices)
again = stored()
assert len(saved) == n_first
jax.tree.map(np.testing.assert_array_equal, again, first)
compare(first, simple.driver(x1, None, 4))

# fewer tiles than devices
compare(simple.driver(x1[:3], None, 4, mesh=mesh), simple.driver(x1[:3], None, 4))

# The whole way, with a model committed to one device.
import equinox as eqx, equintk as nt
model = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
to_first = lambda a: jax.device_put(a, jax.local_devices()[0]) if eqx.is_array(a) else a
model = jax.tree.map(to_first, model)
compare(nt.ntk_full(model, x1, batch_size=4, mesh=mesh),
        nt.ntk_full(model, x1, batch_size=4))
print("same numbers")
"""


def start(code, *arguments, devices):
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(process):
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    return said


def test_eight_devices_give_the_numbers_of_one(tmp_path):
    process = start(COMPARE, str(tmp_path), devices=8)
    said = finished(process)
    assert process.returncode == 0 and said.endswith("same numbers\n"), said


def test_two_processes_give_each_the_numbers_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        start(COMPARE, str(tmp_path), address, str(k), devices=2) for k in range(2)
    ]
    for process in processes:
        said = finished(process)
        assert process.returncode == 0 and "same numbers\n" in said, said


def square(x, **options):
    programs = Programs(
        lambda arrays, block: ((), block),
        lambda shared, one, two: one @ two.T,
        np.transpose,
    )
    return pairwise(programs, (), x, None, 2, lambda *_: None, **options)


def test_a_mesh_of_one_device_is_no_special_case():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((9, 3)))
    mesh = jax.sharding.Mesh(jax.devices()[:1], "tiles")
    np.testing.assert_array_equal(square(x, mesh=mesh), square(x))


def test_a_mesh_under_a_transformation_is_refused():
    mesh = jax.sharding.Mesh(jax.devices(), "tiles")
    with pytest.raises(ValueError, match="`mesh` needs numbers.*outside"):
        jax.jit(lambda x: square(x, mesh=mesh))(jnp.ones((4, 3)))


def test_a_mesh_that_is_none_is_refused():
    with pytest.raises(ValueError, match="must be a `jax.sharding.Mesh`, but.*list"):
        square(jnp.ones((4, 3)), mesh=jax.devices())
