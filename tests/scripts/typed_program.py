"""A user's program: what a type checker makes of it."""

from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import normlib

Statistics = NDArray[np.float64]


def functions(x: NDArray[np.float32], wide: NDArray[np.float64], some: NDArray[Any], flag: bool) -> None:
    assert_type(normlib.layer_norm(x), NDArray[np.float32])
    assert_type(normlib.layer_norm(wide, axis=[0, 1]), NDArray[np.float64])
    assert_type(normlib.layer_norm(some, axis=(0, 1)), NDArray[Any])
    assert_type(normlib.layer_norm([[1, 2], [3, 4]]), NDArray[Any])
    assert_type(normlib.layer_norm(x, return_stats=True), tuple[NDArray[np.float32], Statistics, Statistics])
    either = normlib.layer_norm(x, return_stats=flag)
    assert_type(either, NDArray[Any] | tuple[NDArray[Any], Statistics, Statistics])
    assert_type(normlib.rms_norm(x, x[0]), NDArray[np.float32])
    assert_type(normlib.batch_norm(x, running_mean=wide, running_var=wide, out=x), NDArray[np.float32])
    assert_type(normlib.group_norm(x, 2), NDArray[np.float32])
    assert_type(normlib.instance_norm(wide, weight=x), NDArray[np.float64])
    y, mean, rstd = normlib.batch_norm(x, training=True, return_stats=True)
    dx, dweight, _ = normlib.batch_norm_backward(y, x, mean=mean, rstd=rstd)
    assert_type(dx, NDArray[np.float32])
    assert_type(dweight, NDArray[Any] | None)
    assert_type(normlib.rms_norm_backward(x, wide, rstd=rstd)[0], NDArray[np.float64])


def plans(x: NDArray[np.float32]) -> None:
    plan = normlib.prepare("rms_norm", like=x, weight=x[0], eps=1e-5, activation="silu")
    assert_type(plan, normlib.Plan)
    assert_type(plan(x, x), NDArray[Any])


def layers(x: NDArray[np.float32]) -> None:
    norm = normlib.LayerNorm(8)
    assert_type(norm(x), NDArray[np.float32])
    assert_type(norm.forward([[1.0]]), NDArray[Any])
    assert_type(norm.backward(x), NDArray[np.float32])


class Sublayer:
    def forward(self, x: NDArray[Any]) -> NDArray[Any]:
        return x

    def backward(self, dy: NDArray[Any]) -> NDArray[Any]:
        return dy


def blocks(x: NDArray[np.float32]) -> None:
    model = normlib.Stack([normlib.PreNorm(Sublayer(), normlib.RMSNorm(8)), normlib.LayerNorm(8)])
    assert_type(model(x), NDArray[Any])
    assert_type(model.backward(x), NDArray[Any])
    assert_type(model.freeze("0.norm.weight").train(False), normlib.Stack)
    assert_type(model.parameters(), dict[str, NDArray[Any]])


def recurrent(x: NDArray[np.float32]) -> None:
    lstm = normlib.LayerNormLSTM(8, 16, variant="carried", batch_first=True)
    output, _ = lstm(x, lengths=[3, 2])
    assert_type(output, NDArray[Any])
    assert_type(lstm.step(x)[0], NDArray[Any])


def refused(x: NDArray[np.float32]) -> None:
    normlib.batch_norm(x, x, x)  # type: ignore[call-overload]  # pyright: ignore
    normlib.PreNorm(Sublayer(), x)  # type: ignore[arg-type]  # pyright: ignore
    normlib.LayerNormGRU(8, 16, cell_norm=True)  # type: ignore[call-arg]  # pyright: ignore
    normlib.prepare("norm", like=x)  # type: ignore[arg-type]  # pyright: ignore
    normlib.layer_norm(x, axis="last")  # type: ignore[call-overload]  # pyright: ignore
