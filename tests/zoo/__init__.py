"""Models that an exact kernel must get right, whatever way it is computed.

Each file holds the ways of one kind in which a model can use a parameter. A member is
small, but no dimension that could be mistaken for another has the same size.
"""

from .biases import BIASES
from .control import CONTROL
from .derivatives import DERIVATIVES
from .inputs import INPUTS
from .layers import LAYERS
from .lookups import LOOKUPS
from .weights import WEIGHTS

MODELS = LAYERS | WEIGHTS | BIASES | LOOKUPS | CONTROL | DERIVATIVES | INPUTS
