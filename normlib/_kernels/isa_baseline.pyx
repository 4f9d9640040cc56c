# The kernels at ISA level baseline: the compiler flags are in setup.py.
include "kernels.pxi"
