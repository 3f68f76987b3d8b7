"""The floor: the operations of the cheapest known way to an exact kernel.

It counts multiplications and additions of matrix products. Element-wise work, biases,
norms and memory traffic count nothing, so no program can reach it.
"""

from .workloads import Layer, Net

PRODUCT_SIZE = 2048  # rows of the square matrices whose product measures the rate
PRODUCT_OPERATIONS = 2.0 * PRODUCT_SIZE**3


def operations(net: Net, n: int, full: bool = False) -> float:
    """Operations for the kernel of `n` examples with themselves.

    One forward pass, as many backward passes to the activations as there are outputs,
    and for each weight the cheaper of the two contractions below.
    """
    k = net.out_size
    total = n * 2 * net.products * (1 + 2 * k)  # a product has two operands
    for layer in net.layers:
        total += n * forward(layer)
        # The cotangent of the last layer's output is the identity, and that of its
        # input a row of the weight; nobody needs a derivative by the example.
        if not (layer.reads_x or layer.is_output):
            total += n * k * forward(layer)
        total += min(gram(layer, n, k, full), dense(layer, n, k, full))
    return total


def forward(layer: Layer) -> float:
    """Operations of the layer for one example."""
    return 2.0 * layer.positions * layer.fan_in * layer.fan_out


def gram(layer: Layer, n: int, k: int, full: bool) -> float:
    """Products of activations times products of cotangents, at each two positions."""
    cotangents = 0 if layer.is_output else layer.fan_out * _couplings(k, full)
    return 2.0 * _pairs(n) * layer.positions**2 * (layer.fan_in + cotangents)


def dense(layer: Layer, n: int, k: int, full: bool) -> float:
    """The Jacobian by this weight, and its product with itself."""
    size = layer.fan_in * layer.fan_out
    return n * k * forward(layer) + 2.0 * _pairs(n) * _couplings(k, full) * size


def _pairs(n: int) -> float:
    """Pairs of examples in the upper triangle."""
    return n * (n + 1) / 2


def _couplings(k: int, full: bool) -> int:
    """Pairs of outputs whose products are needed: the trace's, or all."""
    return k * k if full else k
