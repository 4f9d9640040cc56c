"""The benchmark behind ``python -m normlib bench``: every pass beside the memory limit and beside its peers.

The shapes are those of real models (`normlib.bench.cases`). Each case is measured in interleaved rounds in one
process: the limit, normlib, each peer, the limit again, and so on, so that the machine's drift hits all alike.
"""

from normlib.bench.command import main

__all__ = ["main"]
