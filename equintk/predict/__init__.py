"""Training dynamics: a train-train kernel and targets give outputs through time."""

from . import losses as losses
from .approximation import Approximation as Approximation
from .descent import GradientDescent as GradientDescent
from .ensemble import Ensemble as Ensemble
from .flow import GradientFlow as GradientFlow
from .function_space_descent import FunctionSpaceDescent as FunctionSpaceDescent
from .function_space_flow import FunctionSpaceFlow as FunctionSpaceFlow
from .gaussian import Gaussian as Gaussian
from .gaussian_process import GaussianProcess as GaussianProcess
from .krylov_descent import KrylovDescent as KrylovDescent
from .krylov_flow import KrylovFlow as KrylovFlow
from .state import State as State
