# The kernels at ISA level v4: the compiler flags are in setup.py.
include "kernels.pxi"
