# The kernels at ISA level v2: the compiler flags are in setup.py.
include "kernels.pxi"
