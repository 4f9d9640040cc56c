"""PyTorch's native operators under torch.compile; compiling takes seconds a case."""

import functools
import operator

import torch

from normlib.bench.calls import Contender
from normlib.bench.cases import Case
from normlib.bench.peers import pytorch


class Peer(pytorch.Peer):
    """torch.compile of what the eager peer calls."""

    def prepare(self, case: Case, given: dict) -> Contender | None:
        """Return the compiled operator, or the compiled steps of a fused pass."""
        if case.norm not in pytorch._MAKERS:
            return None
        torch._dynamo.reset()  # else the number of compiled variants of one function runs out
        with torch.inference_mode():
            if case.fused:
                steps = pytorch.fused(case, given, operator.itemgetter(0))
                call = torch.compile(steps.call, dynamic=False, fullgraph=True)
                call()
                return steps._replace(call=call)
            (eager, *_), outputs = pytorch.make(case, given)

            def native(*arguments):
                return eager.func(*arguments)

            compiled = functools.partial(torch.compile(native, dynamic=False, fullgraph=True), *eager.args)
            compiled()
        return pytorch.contender(compiled, outputs)
