"""What is measured: networks, numbers of examples, and who computes the kernel.

Both environments read this file, so it imports neither JAX nor either library.
"""

from dataclasses import dataclass, replace
from math import prod

OURS = "equintk"
PEERS = {
    "structured": "structured derivatives of neural-tangents",
    "jacobian": "Jacobian contraction of neural-tangents, its default",
    "vector products": "NTK-vector products of neural-tangents",
    "per leaf": "one Jacobian per leaf of the same Equinox model, written plainly",
}
INCUMBENT = ("structured", "jacobian", "vector products")


@dataclass(frozen=True)
class Layer:
    """One weight, as a matrix product repeated over positions.

    `shape` is that of Equinox's weight: outputs first. `positions` are the places,
    tokens or time steps that share it. `reads_x`: it multiplies the example itself.
    `is_output`: what it gives is the network's output, up to an average or a bias.
    """

    shape: tuple[int, ...]
    positions: int = 1
    reads_x: bool = False
    is_output: bool = False

    @property
    def fan_in(self) -> int:
        """The terms of each output's sum."""
        return prod(self.shape[1:])

    @property
    def fan_out(self) -> int:
        """The outputs at each position."""
        return self.shape[0]


@dataclass(frozen=True)
class Net:
    """A network as its peers and its operation count see it.

    `products` counts the multiplications per example between activations (attention).
    """

    kind: str
    in_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    products: int = 0

    @property
    def out_size(self) -> int:
        """The outputs for one example."""
        return self.layers[-1].fan_out


@dataclass(frozen=True)
class Workload:
    """One kernel with itself: `full` couples the outputs, otherwise their average."""

    name: str
    title: str
    net: Net
    n: int
    batch_size: int
    peers: tuple[str, ...] = ()
    full: bool = False
    worker: str = "benchmarks.kernels.worker"

    @property
    def methods(self) -> tuple[str, ...]:
        """Who computes it, ourselves first."""
        return (OURS, *self.peers)

    @property
    def check_n(self) -> int:
        """The number of examples at which the two sides' values are compared.

        The incumbent's structured derivatives are silently wrong for one output when
        there are as many examples as units in the last hidden layer.
        """
        return self.n - 1 if self.n == self.net.layers[-1].fan_in else self.n


def mlp(kind: str, *sizes: int) -> Net:
    """A fully connected network with these sizes, the input's first."""
    shapes = [(n_out, n_in) for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)]
    last = len(shapes) - 1
    layers = [
        Layer(shape, reads_x=i == 0, is_output=i == last)
        for i, shape in enumerate(shapes)
    ]
    return Net(kind, sizes[:1], tuple(layers))


def vit(dim: int = 64, blocks: int = 2, n_patches: int = 16, patch: int = 49) -> Net:
    """Pre-norm encoder blocks over the patches and one token of its own."""
    tokens = n_patches + 1
    block = [Layer((dim, dim), tokens)] * 4  # queries, keys, values, their output
    block += [Layer((4 * dim, dim), tokens), Layer((dim, 4 * dim), tokens)]
    return Net(
        "vit",
        (n_patches, patch),
        (
            Layer((dim, patch), n_patches, reads_x=True),
            *(block * blocks),
            Layer((10, dim), is_output=True),
        ),
        products=blocks * 2 * tokens**2 * dim,  # scores, and their use
    )


CNN = Net(
    "cnn",
    (1, 28, 28),
    (
        Layer((32, 1, 3, 3), 28**2, reads_x=True),
        Layer((64, 32, 3, 3), 14**2),
        Layer((64, 64, 3, 3), 7**2),
        Layer((10, 64), is_output=True),
    ),
)
LENET = Net(
    "lenet",
    (1, 28, 28),
    (
        Layer((6, 1, 5, 5), 28**2, reads_x=True),
        Layer((16, 6, 5, 5), 10**2),
        Layer((120, 400)),
        Layer((84, 120)),
        Layer((10, 84), is_output=True),
    ),
)
GRU = Net(
    "gru",
    (32, 8),
    (
        Layer((192, 8), 32, reads_x=True),
        Layer((192, 64), 32),
        Layer((1, 64), is_output=True),
    ),
)

A = mlp("relu", 784, 1024, 1024, 1024, 1)
B = mlp("relu", 784, 1024, 1024, 1024, 10)
C = mlp("relu", 784, 1024, 1024, 1024, 100)
H64 = mlp("siren", 2, 64, 64, 64, 64, 3)
H256 = mlp("siren", 2, 256, 256, 256, 256, 3)
MANY = mlp("relu", 5, 64, 1000)

# `batch_size` is what we would tell a user to type for this network.
WORKLOADS = (
    Workload("a64", "MLP 784-1024x3-1", A, 64, 64, ("structured", "jacobian")),
    Workload("a256", "MLP 784-1024x3-1", A, 256, 256, ("structured",)),
    Workload("a1024", "MLP 784-1024x3-1", A, 1024, 256, ("structured",)),
    Workload("b", "MLP 784-1024x3-10", B, 256, 256, ("structured",)),
    Workload("bfull", "MLP 784-1024x3-10", B, 256, 256, ("structured",), full=True),
    Workload("c", "MLP 784-1024x3-100", C, 256, 256, ("structured",)),
    Workload("d", "CNN 28x28, 32-64-64", CNN, 64, 64, (*INCUMBENT, "per leaf")),
    Workload("d1024", "CNN 28x28, 32-64-64", CNN, 1024, 32),
    Workload("e", "ViT, 2 blocks of 64, 17 tokens", vit(), 64, 64, ("per leaf",)),
    Workload("f", "LeNet, max and average pooling", LENET, 64, 64, ("per leaf",)),
    Workload("g", "GRU 64, 32 steps", GRU, 64, 64, ("per leaf",)),
    Workload("h64", "SIREN 2-64x4-3", H64, 1024, 256, ("structured",)),
    Workload("h256", "SIREN 2-256x4-3", H256, 1024, 256, ("structured",)),
    Workload("many", "MLP 5-64-1000", MANY, 8, 8, ("structured",), full=True),
)
LARGE = Workload("large", "MLP 784-1024x3-1", A, 20_000, 500)


def select(text: str) -> list[Workload]:
    """The workloads of a comma-separated list of names, or of their first letters.

    Raises:
        ValueError: for a name that is none, with those that there are.
    """
    chosen = []
    for name in text.split(","):
        found = [w for w in WORKLOADS if name.strip() in (w.name, w.name[0])]
        if not found:
            raise ValueError(
                f"No workload is called {name.strip()!r}. There are "
                f"{', '.join(w.name for w in WORKLOADS)}; a letter means all that "
                "start with it."
            )
        chosen += [workload for workload in found if workload not in chosen]
    return chosen


def without(workload: Workload, text: str) -> Workload:
    """The same workload without the peers of a comma-separated list.

    Raises:
        ValueError: for a name that is no peer, with those that there are.
    """
    left_out = {name.strip() for name in text.split(",") if name.strip()}
    for name in sorted(left_out - set(PEERS)):
        raise ValueError(f"No peer is called {name!r}. There are {', '.join(PEERS)}.")
    kept = tuple(peer for peer in workload.peers if peer not in left_out)
    return replace(workload, peers=kept)


def by_name(name: str) -> Workload:
    """One workload by its full name."""
    return next(w for w in (*WORKLOADS, LARGE) if w.name == name)


def resized(workload: Workload, n: int | None, batch_size: int | None) -> Workload:
    """The same workload with another number of examples or block size."""
    n = workload.n if n is None else n
    return replace(workload, n=n, batch_size=batch_size or min(workload.batch_size, n))
