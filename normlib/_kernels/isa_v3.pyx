# The kernels at ISA level v3: the compiler flags are in setup.py.
include "kernels.pxi"
