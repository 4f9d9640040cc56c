cdef struct Machine:
    # In bytes. Results depend on none of it.
    Py_ssize_t l1
    Py_ssize_t l2           # a core's share of L2
    Py_ssize_t llc
    Py_ssize_t thread       # least memory traffic that is worth one more thread
    Py_ssize_t beyond_l2    # memory traffic of which L2 holds little
    Py_ssize_t beyond_llc   # and the LLC
    Py_ssize_t stream       # memory traffic from which on outputs go past the caches

cdef Machine machine
