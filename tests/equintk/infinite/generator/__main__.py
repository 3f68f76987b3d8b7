"""Compares random models with wide networks: `... 0 300` takes these seeds."""

import sys
import time

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")

from tests.equintk.infinite.generator.answers import QUICK, of, shortest  # noqa: E402
from tests.equintk.infinite.generator.grammar import sentence  # noqa: E402

if __name__ == "__main__":
    first, last = map(int, sys.argv[1:3])
    for seed in range(first, last):
        start = time.process_time()
        # Errors of 10 % are seen; what is unclear is for the tests to decide.
        found = of(sentence(seed), QUICK, 0.03)
        seconds = time.process_time() - start
        print(f"{seed} {found.kind} {seconds:.0f}s {found.text}", flush=True)
        print(f"    {sentence(seed)}", flush=True)
        if found.kind in ("differs", "broken"):
            less = shortest(sentence(seed), found.kind, QUICK, 0.03)
            print(f"    in short: {less}", flush=True)
