"""Neural tangent and NNGP kernels, and their dynamics, for any Equinox module."""

from typing import TYPE_CHECKING

from . import metrics as metrics, predict as predict
from ._compiled import filter_jit as filter_jit, jit as jit
from ._empirical.empirical_nngp import (
    EmpiricalKernels as EmpiricalKernels,
    empirical_kernels as empirical_kernels,
    empirical_nngp as empirical_nngp,
    empirical_nngp_diag as empirical_nngp_diag,
    empirical_nngp_diag_full as empirical_nngp_diag_full,
    empirical_nngp_full as empirical_nngp_full,
    empirical_nngp_per_output as empirical_nngp_per_output,
)
from ._empirical.monte_carlo import MonteCarlo as MonteCarlo, monte_carlo as monte_carlo
from ._empirical.nngp import nngp as nngp
from ._empirical.ntk import (
    ntk as ntk,
    ntk_by_parameter as ntk_by_parameter,
    ntk_diag as ntk_diag,
    ntk_diag_full as ntk_diag_full,
    ntk_full as ntk_full,
    ntk_per_output as ntk_per_output,
)
from ._empirical.sketch import mc_ntk as mc_ntk, ntk_features as ntk_features
from ._expansion import linearize as linearize, taylor_expand as taylor_expand
from ._infinite.errors import NoLimitError as NoLimitError
from ._infinite.estimate import (
    EstimatedKernels as EstimatedKernels,
    estimate_infinite_kernels as estimate_infinite_kernels,
)
from ._infinite.given import (
    dual_function as dual_function,
    infinite_rule as infinite_rule,
)
from ._infinite.kernels import (
    InfiniteKernels as InfiniteKernels,
    infinite_kernels as infinite_kernels,
    infinite_nngp as infinite_nngp,
    infinite_ntk as infinite_ntk,
)
from ._last_layer import last_layer as last_layer
from ._late import late as _late
from ._learning_rates import learning_rate_multipliers as learning_rate_multipliers
from ._loss import loss_scale as loss_scale
from ._parameterize import Parameterized as Parameterized, parameterize as parameterize
from ._prediction import mc_ntk_predict as mc_ntk_predict, ntk_predict as ntk_predict
from ._version import __version__ as __version__

# What stands on lineax, which would be a fifth of the time that importing takes.
if TYPE_CHECKING:
    from ._empirical.operator import NTKOperator as NTKOperator
    from ._matrix_free.eigenvalues import top_eigenvalues as top_eigenvalues
    from ._matrix_free.logdet import stochastic_logdet as stochastic_logdet
    from ._matrix_free.nystrom import nystrom_features as nystrom_features
    from ._matrix_free.trace import stochastic_trace as stochastic_trace
else:
    __getattr__, __dir__ = _late(
        __name__,
        {
            "NTKOperator": "._empirical.operator",
            "nystrom_features": "._matrix_free.nystrom",
            "stochastic_logdet": "._matrix_free.logdet",
            "stochastic_trace": "._matrix_free.trace",
            "top_eigenvalues": "._matrix_free.eigenvalues",
        },
    )
