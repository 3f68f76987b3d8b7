"""What is measured at infinite width.

Both environments read this file, so it imports neither JAX nor either library.
"""

from benchmarks.kernels.workloads import CNN, OURS, Net, Workload, mlp

PEER = "neural-tangents"
W_STD, B_STD = 1.4, 0.1

# Of a network only the kind, the input and the number of layers matter here.
_MLP = mlp("relu", 64, 16, 16, 16, 16, 1)
_FLAT = Net("flatten", (3, 8, 8), CNN.layers)
_POOLED = Net("pooled", (3, 8, 8), CNN.layers)


def _workload(name: str, title: str, net: Net, n: int) -> Workload:
    worker = "benchmarks.infinite.worker"
    return Workload(name, title, net, n, 256, (PEER,), worker=worker)


WORKLOADS = (
    _workload("mlp", "ReLU MLP, 4 hidden layers", _MLP, 1000),
    _workload("flatten", "ReLU CNN 8x8, 3 convolutions, flattened", _FLAT, 256),
    _workload("pooled", "ReLU CNN 8x8, 3 convolutions, global average", _POOLED, 64),
)
ASKED = {"mlp": 1.5, "flatten": 1.0, "pooled": 4.0}
"""How many times faster than the incumbent, in CPU seconds."""

METHODS = {OURS: "ours", PEER: "incumbent"}
