"""Calls of every public function that between them take every way through the compiled calls and the general way."""

import numpy as np

from normlib.ops import OPS

DTYPES = ("float32", "float16")


def variants():
    """(name, function, arguments): ordinary calls, strided ones that are copied, converted and wrong ones."""
    for op in OPS.values():
        for dtype in DTYPES:
            for last in (True, False):
                yield from calls(op, dtype, last)


def calls(op, dtype, last):
    rng = np.random.default_rng(0)
    shape, axis = (4, 30, 40), -1 if last else 1
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    groups = {"num_groups": 5} if op.has_groups else {}
    size, rest = op.parameter_shape(shape, axis), op.statistics_shape(shape, axis, *groups.values())
    options = {op.axis_name: axis, **groups}
    parameters = {n: rng.standard_normal(size).astype(dtype) for n in op.parameters}
    statistics = {n: rng.uniform(0.5, 1, rest).astype(np.float32) for n in op.statistics}
    pair = ("running_mean", "running_var") if op.mode else ()
    running = {n: rng.uniform(0.5, 1, size).astype(np.float32) for n in pair}
    name = f"{op.name} {dtype} {'last' if last else 'first'}"
    forward = {"x": x, **options, **parameters, "return_stats": True}
    training = {op.mode: True, **running} if op.mode else {}
    yield name, op.forward, forward | training
    if op.mode:
        yield f"{name} given", op.forward, forward | running | {op.mode: False}
    backward_axes = x[:, ::-1, ::2].repeat(2, axis=2)[:, :, ::-1]
    yield f"{name} general", op.forward, forward | training | {"x": backward_axes, "eps": 1}
    mode = {op.mode: True} if op.mode else {}
    yield f"{name} list", op.forward, {"x": x[:, :10, :10].astype(float).tolist(), **options, **mode}
    yield f"{name} wrong", op.forward, forward | {"x": x[:, :7, :7]}
    backward = {"dy": dy, "x": x, **options, "weight": parameters["weight"], **statistics}
    yield f"{name} backward", op.backward, backward
    yield f"{name} backward general", op.backward, backward | {"out": x.copy()[::-1], "weight_grads": True}
    yield f"{name} backward wrong", op.backward, backward | {"dy": dy[:3]}
