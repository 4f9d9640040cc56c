"""What the kernels know of this machine: its caches, and the thresholds that follow from them. Filled at import.

Results depend on none of it, so whatever decides in which order a sum is taken must not follow from here. The measurements behind the
rules stand in docs/machine.md."""

cdef extern from "caches.h":
    int NORMLIB_FACTS
    void normlib_ask_caches(Py_ssize_t* facts)


def ask_system():
    """What the system's own functions say of the caches, as far as they do, by the names of `normlib._machine.Caches`."""
    cdef Py_ssize_t facts[8]
    cdef int i
    for i in range(NORMLIB_FACTS):
        facts[i] = 0
    normlib_ask_caches(facts)
    names = ("l1", "l2", "llc", "l2_cores", "line")
    return {name: facts[i] for i, name in enumerate(names) if facts[i] > 0}


def follow(Py_ssize_t l1, Py_ssize_t l2, Py_ssize_t llc, Py_ssize_t thread):
    """The rules: thresholds from L1, a core's share of L2, and the LLC."""
    llc = max(l2, llc)
    machine.l1, machine.l2, machine.llc = l1, l2, llc
    machine.thread = thread
    machine.beyond_llc = machine.stream = max(<Py_ssize_t>1, llc // 4 * 3)
    machine.beyond_l2 = min(8 * l2, machine.beyond_llc)


def thresholds():
    """Those in use."""
    return machine


def override(**values):
    """Take other thresholds, to measure them or for tests; the names are those of `thresholds`."""
    global machine
    found = thresholds() | values
    if len(found) > len(thresholds()):
        raise ValueError(f"override: expected {', '.join(thresholds())}, received {', '.join(values)}")
    machine = found
