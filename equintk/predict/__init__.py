"""Training dynamics: a train-train kernel and targets give outputs through time."""

from typing import TYPE_CHECKING

from .._late import late as _late
from . import losses as losses
from .approximation import Approximation as Approximation
from .descent import GradientDescent as GradientDescent
from .ensemble import Ensemble as Ensemble
from .flow import GradientFlow as GradientFlow
from .function_space_descent import FunctionSpaceDescent as FunctionSpaceDescent
from .function_space_flow import FunctionSpaceFlow as FunctionSpaceFlow
from .gaussian import Gaussian as Gaussian
from .gaussian_process import GaussianProcess as GaussianProcess
from .state import State as State

if TYPE_CHECKING:
    from .krylov_descent import KrylovDescent as KrylovDescent
    from .krylov_flow import KrylovFlow as KrylovFlow
else:  # lineax, which they stand on, is imported when it is needed
    __getattr__, __dir__ = _late(
        __name__, {"KrylovDescent": ".krylov_descent", "KrylovFlow": ".krylov_flow"}
    )
