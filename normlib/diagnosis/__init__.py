"""What is wrong with a norm: :func:`normlib.diagnose`, and what it returns.

A norm is taken for a system that answers: chosen inputs are put in, a model is found that gives the same outputs
(`_identify`), and what differs from the norm that is meant is said in words (`_differences`). Gradients, modes and
arithmetic are then held against the model (`_gradients`, `_modes`, `_numerics`).
"""

from ._diagnose import diagnose
from ._model import Norm
from ._report import Diagnosis, Evidence, Finding

__all__ = ["Diagnosis", "Evidence", "Finding", "Norm", "diagnose"]
