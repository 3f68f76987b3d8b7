"""The NNGP and the tangent kernel of an architecture at infinite width."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .. import _checks, _inputs
from .._batch import pairwise
from .._checks import is_traced
from .._parameterize import Parameterized
from .._parameters import partition
from .._programs import Programs
from .._progress import reporter
from .._scalings import SCHEMES, scaling
from .._trace.roles import roles
from .._types import Examples, Integer, Model, Number, Progress, Text
from . import priors
from .hermite import ORDERS
from .program import Program, read

_PILOT = 8
_FEW_PAIRS = 4096


class InfiniteKernels(NamedTuple):
    """Both kernels of an architecture.

    Attributes:
        nngp: `E[f f']`, the covariance of an output over initialisations.
        ntk: the tangent kernel of an output.
    """

    nngp: Any
    ntk: Any


def infinite_kernels(
    model: Model,
    x1: Examples,
    x2: Examples | None = None,
    *,
    parameterization: Text | None = None,
    W_std: Number | None = None,
    b_std: Number | None = None,
    learning_rate: Any = None,
    finite: Any = (),
    roles: Any = None,
    batch_size: Integer = 64,
    tolerance: Number | None = None,
    progress: Progress = False,
) -> InfiniteKernels:
    r"""NNGP and tangent kernel of a module's architecture as its widths go to infinity.

    The module is taken as it is; what it does is read from its jaxpr. An axis that a
    parameter produces goes to infinity, its size in the given module being used as a
    ratio only; the axes of the input stay. What is not understood raises, and nothing
    is approximated beyond `tolerance`.

    Args:
        model: an `equinox.Module` that maps one example, without a batch axis, to an
            array or a PyTree of arrays.
        x1: the examples that index the rows; the first axis counts them.
        x2: the examples that index the columns; `None` means `x1` again.
        parameterization: `"ntk"`, or another of `parameterize`. `None` means
            that of a model which `parameterize` made, and otherwise Equinox's own
            initialisation, at the widths of the module: the tangent kernel grows with
            them. There weights are taken as Gaussians of the same variance, which in a
            first layer of few inputs they are not.
        W_std: standard deviation of a weight times the root of its fan-in.
        b_std: standard deviation of a bias.
        learning_rate: of parameters, relative to one another: a number, or a mapping
            from the paths of parameters below the model, such as
            `".layers[0].weight"`, to numbers; 0 is frozen, what is not named has 1.
        finite: the paths of parameters whose own axes do not go to infinity, such as
            those of a layer over whose outputs the model averages.
        roles: what parameters are, as in `parameterize`, where it cannot be read.
        batch_size: the largest number of examples of either side at once.
        tolerance: the largest relative error, by its bound, of expectations without a
            closed form, from Hermite series; by default 1e-8, or 1e-4 in float32.
        progress: `True` for lines on stderr, or a function of (blocks done, blocks).

    Returns:
        `.nngp` and `.ntk`, arrays `(n1, n2, *space, *space)`, where `space` are those
        axes of the output that do not go to infinity; of an output vector, `(n1, n2)`.
        PyTrees of them where the model returns a PyTree. Scales and units are those of
        `nt.nngp` and `nt.ntk`. Where the output is a nonlinear function, the kernel of
        one network stays random, and these are the means.

    Raises:
        NoLimitError: if the limit is not known; the operation and the line are named.
        ValueError: for bad arguments, or where a series does not reach `tolerance`.

    Time and memory are quadratic in the number of examples, and in the places of an
    example where the model pools over places or mixes them.

    Source: Yang, arXiv:1910.12478, for which architectures have a limit; Cho and Saul,
    arXiv:1112.3712, and Daniely et al., arXiv:1602.05897, for the expectations.
    """
    arguments = _Arguments(
        parameterization,
        W_std,
        b_std,
        learning_rate,
        finite,
        roles,
        batch_size,
        tolerance,
    )
    return _kernels(model, x1, x2, arguments, progress, True)


def infinite_nngp(
    model: Model, x1: Examples, x2: Examples | None = None, **options: Any
) -> PyTree:
    """The NNGP of `infinite_kernels`, whose arguments it takes; no derivative."""
    progress = options.pop("progress", False)
    return _kernels(model, x1, x2, _Arguments(**options), progress, False).nngp


def infinite_ntk(
    model: Model, x1: Examples, x2: Examples | None = None, **options: Any
) -> PyTree:
    """The tangent kernel of `infinite_kernels`, whose arguments it takes."""
    progress = options.pop("progress", False)
    return _kernels(model, x1, x2, _Arguments(**options), progress, True).ntk


class _Arguments(NamedTuple):
    parameterization: Any = None
    W_std: Any = None
    b_std: Any = None
    learning_rate: Any = None
    finite: Any = ()
    roles: Any = None
    batch_size: Any = 64
    tolerance: Any = None


def _kernels(
    model: Model,
    x1: Examples,
    x2: Examples | None,
    arguments: _Arguments,
    progress: Progress,
    tangent: bool,
) -> InfiniteKernels:
    _checks.positive_integer("batch_size", arguments.batch_size)
    x1, x2 = _inputs.pair(x1, x2)
    params, static = partition(model, None)
    example = _inputs.one_example(x1)
    plan = _Plan(model, params, example, arguments)
    program = read(
        params, static, example, plan.kept, plan.still, plan.frozen, plan.finite
    )
    tolerance = _tolerance(arguments.tolerance, program.dtype)
    report = reporter(progress, "infinite kernels")
    run = lambda order, one, two, report: _run(
        program, plan, order, one, two, arguments.batch_size, tangent, report
    )
    if is_traced(x1, x2, plan.numbers):
        nngp, ntk, error = run(ORDERS[-1], x1, x2, report)
        nngp, ntk = eqx.error_if(
            (nngp, ntk), ~(jnp.max(error[..., -1]) <= tolerance),
            _too_large("larger", tolerance),
        )  # fmt: skip
        return InfiniteKernels(nngp, ntk)
    order = _order(run, x1, x2, tolerance)
    nngp, ntk, error = run(order, x1, x2, report)
    worst = float(np.max(np.asarray(error)[..., ORDERS.index(order)]))
    if not worst <= tolerance and order < ORDERS[-1]:
        nngp, ntk, error = run(ORDERS[-1], x1, x2, report)
        worst = float(np.max(np.asarray(error)[..., -1]))
    if not worst <= tolerance:
        raise ValueError(_too_large(f"{worst:.1e}", tolerance))
    for leaf in jtu.tree_leaves((nngp, ntk)):
        _checks.finite_result("A kernel", leaf)
    return InfiniteKernels(nngp, ntk)


def _order(run: Any, x1: Any, x2: Any, tolerance: float) -> int:
    """The shortest series that will do, where a shorter one saves time."""
    n1 = _inputs.count(x1)
    if n1 * (n1 if x2 is None else _inputs.count(x2)) <= _FEW_PAIRS:
        return ORDERS[-1]
    few = jtu.tree_map(lambda a: a[:_PILOT], x1)
    error = run(ORDERS[-1], few, None, lambda done, total: None)[2]
    worst = np.max(np.asarray(error), axis=(0, 1))
    # some way below, since other examples may need more than these few
    enough = [k for k, w in zip(ORDERS, worst, strict=True) if w <= tolerance / 10]
    return enough[0] if enough else ORDERS[-1]


def _too_large(worst: str, tolerance: float) -> str:
    return (
        "An expectation over Gaussians has no closed form here, and the bound of the "
        f"relative error of its Hermite series is {worst}, above the tolerance "
        f"{tolerance:.1e}. Functions with jumps or kinks away from zero, and steep "
        "ones at large variances, converge slowly: pass a larger `tolerance`, or "
        "smaller inputs, `W_std` or `b_std`."
    )


def _tolerance(tolerance: Any, dtype: Any) -> float:
    if tolerance is None:
        return 1e-8 if jnp.finfo(dtype).eps < 1e-10 else 1e-4
    return float(_checks.positive("tolerance", tolerance))


def _run(
    program: Program,
    plan: "_Plan",
    order: int,
    x1: Any,
    x2: Any,
    batch_size: int,
    tangent: bool,
    report: Any,
) -> tuple[Any, Any, Any]:
    def kernel(numbers: Any, one: Any, two: Any) -> Any:
        of_pair = lambda a, b: program.pair(
            lambda leaf: plan.prior(leaf, numbers), a, b, order, tangent
        )
        return jax.vmap(jax.vmap(of_pair, (None, 0)), (0, None))(one, two)

    def flip(kernels: Any) -> Any:
        return jtu.tree_map(_flipped, kernels)

    programs = Programs(lambda numbers, block: (numbers, block), kernel, flip)
    kernels, _ = pairwise(
        programs, plan.numbers, x1, x2, batch_size, report,
        pair_bytes=64 * program.places,
    )  # fmt: skip
    return kernels


def _flipped(k: Any) -> Any:
    if k.ndim % 2:  # bounds, by order
        return k.swapaxes(0, 1)
    rank = (k.ndim - 2) // 2
    places = range(2, 2 + rank)
    return k.transpose(1, 0, *(p + rank for p in places), *places)


class _Plan:
    """What the arguments say of each parameter, by its number.

    Attributes:
        numbers: `W_std`, `b_std` and learning rates: what may be differentiated by.
        kept: parameters that keep their start.
        still: those whose variance is zero.
        frozen: those that do not move.
        finite: those whose own axes do not go to infinity.
    """

    def __init__(self, model: Any, params: Any, x: Any, arguments: _Arguments):
        self._paths = [jtu.keystr(p) for p, _ in jtu.tree_flatten_with_path(params)[0]]
        self._scheme, W_std, b_std = _scheme(model, arguments)
        self._written = isinstance(model, Parameterized)
        if isinstance(model, Parameterized):
            role_of = {f".module{path}": role for path, role in model.roles}
        else:
            given = _checked_roles(arguments.roles, self._paths)
            role_of = roles(model, x, given)
        self._roles = [role_of[path] for path in self._paths]
        self._own = None if self._scheme else priors.own_deviations(model)
        rates = _rates(arguments.learning_rate, self._paths)
        self.numbers = (W_std, b_std, rates)
        self.kept = frozenset(i for i, r in enumerate(self._roles) if r.kept)
        self.still = self.kept | {
            i
            for i, role in enumerate(self._roles)
            if self._scheme and _is_zero(W_std if role.kind == "weight" else b_std)
        }
        self.finite = frozenset(_named("finite", arguments.finite, self._paths))
        self.frozen = frozenset(i for i, r in enumerate(rates) if _is_zero(r))
        if self._own is not None:
            for i in range(len(self._paths)):
                self._deviation(i)

    def prior(self, leaf: int, numbers: Any) -> tuple[Any, Any]:
        """Variance of a parameter, and the rate at which it moves."""
        W_std, b_std, rates = numbers
        if self._scheme is None:
            return self._deviation(leaf) ** 2, rates[leaf]
        role = self._roles[leaf]
        std, multiplier = scaling(self._scheme, role, W_std, b_std)
        std = 0.0 if role.kept else std
        if self._written:  # the multiplier is in the model's own code
            return std**2, rates[leaf]
        return (std * multiplier) ** 2, multiplier**2 * rates[leaf]

    def _deviation(self, leaf: int) -> float:
        path = self._paths[leaf]
        assert self._own is not None
        if leaf in self.kept:
            return 0.0
        if path not in self._own:
            raise ValueError(
                f"How the parameter `model{path}` is drawn is not known: it sits in no "
                "layer of `equinox.nn` with an initialisation of its own. Pass "
                '`parameterization="ntk"` or another, with `W_std` and `b_std`.'
            )
        return self._own[path]


def _is_zero(number: Any) -> bool:
    return not is_traced(number) and float(number) == 0


def _scheme(model: Any, arguments: _Arguments) -> tuple[Any, Any, Any]:
    scheme, W_std, b_std = arguments[:3]
    for name, value in (("W_std", W_std), ("b_std", b_std)):
        if value is not None:
            _checks.non_negative(name, value)
    if isinstance(model, Parameterized):
        if (scheme, arguments.roles) != (None, None):
            raise ValueError(
                "The model was made by `parameterize`, which says how it is drawn: "
                "leave `parameterization` and `roles` out, or pass `model.module`."
            )
        scheme = model.scheme
        W_std = model.W_std if W_std is None else W_std
        b_std = model.b_std if b_std is None else b_std
        if (W_std, b_std) != (model.W_std, model.b_std):
            raise ValueError(
                "The model was made by `parameterize`, with its own `W_std` and "
                "`b_std`: leave them out, or pass `model.module`."
            )
        return scheme, W_std, b_std
    if scheme is None:
        if W_std is not None or b_std is not None:
            raise ValueError(
                "`W_std` and `b_std` belong to a parameterization: pass "
                f"`parameterization` with them, one of {', '.join(map(repr, SCHEMES))}."
            )
        return None, None, None
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise ValueError(
            f"`parameterization` must be one of {', '.join(map(repr, SCHEMES))} or "
            f"`None`, but it is {scheme!r}."
        )
    return scheme, 1.0 if W_std is None else W_std, 0.0 if b_std is None else b_std


def _checked_roles(given: Any, paths: list[str]) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            "`roles` must map the paths of parameters to their roles, such as "
            f'`{{".scale": "gain"}}`, but it is {type(given).__name__}.'
        )
    _named("roles", given, paths)
    return given


def _rates(learning_rate: Any, paths: list[str]) -> list[Any]:
    if learning_rate is None:
        return [1.0] * len(paths)
    if isinstance(learning_rate, Mapping):
        _named("learning_rate", learning_rate, paths)
        for path, rate in learning_rate.items():
            _checks.non_negative(f"learning_rate[{path!r}]", rate)
        return [learning_rate.get(path, 1.0) for path in paths]
    _checks.non_negative("learning_rate", learning_rate)
    return [learning_rate] * len(paths)


def _named(name: str, given: Any, paths: list[str]) -> list[int]:
    if isinstance(given, str):
        given = (given,)
    for path in given:
        if path not in paths:
            raise ValueError(
                f"`{name}` names {path!r}, which is no parameter of the model; its "
                f"parameters are {', '.join(map(repr, paths))}."
            )
    return [i for i, path in enumerate(paths) if path in given]
