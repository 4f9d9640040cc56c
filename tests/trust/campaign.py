"""What the campaign consists of: a line for each entry. An entry returns how often it tried and a list of what fell."""

from functools import partial

from free_threading import free_threading
from lines import coverage
from sanitizers import address, threads
from tools import script, suite

halves = partial(suite, workers=2)  # what is no measure of this process alone
ENTRIES = {
    "exactness": ("errors in ulps over widths, orders and values", partial(script, "exactness.py")),
    "digests": ("the bits that are stored", partial(script, "digests.py")),
    "aarch64": (
        "the same bits on aarch64, cross-compiled and emulated",
        partial(script, "aarch64.sh", needs=["qemu-aarch64"], modules=["ziglang"]),
    ),
    "fork": ("children, pools and torch: 20 rounds of each scenario", partial(halves, "test_forks.py")),
    "install": ("beside the OpenMP of torch and scikit-learn, 20 rounds", partial(halves, "test_install.py")),
    "threads": ("16 threads x 1,000 calls; a caller's own OpenMP region", partial(suite, "test_concurrency.py")),
    "neighbours": ("the default threads beside busy programs", partial(script, "neighbours.py")),
    "fuzz": ("malformed arguments: 10,000 calls of each function and backend", partial(halves, "test_malformed.py")),
    "audit": ("checkpoints with errors drawn at random, 20,000 a format", partial(halves, "test_audit_hostile.py")),
    "allocation": ("memory that runs out at each allocation in turn", partial(halves, "test_allocation_failures.py")),
    "growth": ("100,000 calls of each kind; references", partial(halves, "test_growth.py")),
    "large": ("more than 2^31 elements", partial(suite, "test_large.py")),
    "interrupts": ("Ctrl-C at any time", partial(suite, "test_interrupts.py")),
    "plugins": ("backends that misbehave", partial(halves, "test_plugins.py", "test_backends.py")),
    "asan+ubsan": ("the suite under AddressSanitizer and UndefinedBehaviorSanitizer", address),
    "tsan": ("the thread tests under ThreadSanitizer", threads),
    "free-threaded": ("the suite on CPython 3.13t, every test in 4 threads at once", free_threading),
    "coverage": ("lines and branches that the suite runs", coverage),
}
SINGLE = ["exactness", "aarch64", "interrupts", "large", "threads", "digests"]  # of one process: two at a time
