"""Training dynamics: a train-train kernel and targets give outputs through time."""

from .descent import GradientDescent as GradientDescent
from .flow import GradientFlow as GradientFlow
from .state import State as State
