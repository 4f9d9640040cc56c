cimport numpy as cnp
from normlib._kernels.plan cimport Plan

cdef enum:
    KEPT = 75       # "K": an axis of its own statistics (feature norms)
    REDUCED = 82    # "R": an axis that feature norms reduce
    SAMPLE = 78     # "N"
    CHANNEL = 67    # "C"
    SPACE = 83      # "S": an axis that channel norms reduce

cdef bint lay_out(Plan* p, const char* kinds, cnp.ndarray x, cnp.ndarray y, cnp.ndarray dy) noexcept
cdef bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept
cdef bint same_memory(cnp.ndarray a, cnp.ndarray b) noexcept
