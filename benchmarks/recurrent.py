"""LayerNormLSTM and LayerNormGRU: asv's timings, and as a program a comparison with torch.

::

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.recurrent     # forward and backward beside the same cell in TorchScript

The cell in torch is the one that torch's own benchmarks script (custom_lstms): a step is written in elementwise
operations, and compiled by TorchScript. The variable keeps NumPy's products to one thread; it is read at import.
"""

import os
import statistics
import time

import numpy as np

import normlib

STEPS, SIZE = 100, 256


class Recurrent:
    """A sequence of 100 steps of 256, forward and backward, and one step of a stream."""

    param_names = ("layer", "batch")
    params = (("LSTM paper", "LSTM carried", "LSTM per_gate", "GRU paper", "GRU per_gate"), (1, 32))

    def setup(self, layer, batch):
        kind, variant = layer.split()
        if not hasattr(normlib, f"LayerNorm{kind}"):
            raise NotImplementedError(f"this commit has no LayerNorm{kind}")
        self.layer = getattr(normlib, f"LayerNorm{kind}")(SIZE, SIZE, variant=variant, rng=0)
        self.x = np.random.default_rng(0).normal(size=(STEPS, batch, SIZE)).astype(np.float32)
        self.dy = np.ones((STEPS, batch, SIZE), np.float32)
        self.state = self.layer.step(self.x[0])[1]
        self.time_forward_backward(layer, batch)

    def time_forward_backward(self, layer, batch):
        self.layer(self.x)
        self.layer.zero_grad()
        self.layer.backward(self.dy)

    def time_step(self, layer, batch):
        self.layer.step(self.x[0], self.state)


def products(layer, x):
    """The matrix products of `Recurrent.time_forward_backward` alone."""
    steps, batch, _ = x.shape
    gates = np.ones((steps, batch, len(layer.weight_hh_l0)), np.float32)
    inputs, rows = x.reshape(-1, SIZE), gates.reshape(steps * batch, -1)
    from_h, of_h = np.empty_like(gates[0]), np.empty_like(x[0])

    def run():
        np.matmul(inputs, layer.weight_ih_l0.T)
        for t in range(steps):
            np.matmul(x[t], layer.weight_hh_l0.T, out=from_h)
            np.matmul(gates[t], layer.weight_hh_l0, out=of_h)
        np.matmul(rows, layer.weight_ih_l0)
        for _ in range(2):
            np.matmul(rows.T, inputs)

    return run


def scripted(torch):
    """The "carried" LSTM with layer norm over one sequence, as TorchScript."""

    class Lstm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w_x = torch.nn.Parameter(torch.randn(4 * SIZE, SIZE) / SIZE**0.5)
            self.w_h = torch.nn.Parameter(torch.randn(4 * SIZE, SIZE) / SIZE**0.5)
            self.norm_x, self.norm_h = torch.nn.LayerNorm(4 * SIZE), torch.nn.LayerNorm(4 * SIZE)
            self.norm_c = torch.nn.LayerNorm(SIZE)

        def forward(self, x):
            h = torch.zeros_like(x[0])
            c = torch.zeros_like(x[0])
            outputs = []
            for step in x.unbind(0):
                u = self.norm_x(torch.mm(step, self.w_x.t())) + self.norm_h(torch.mm(h, self.w_h.t()))
                i, f, g, o = u.chunk(4, 1)
                c = self.norm_c(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            return torch.stack(outputs)

    return torch.jit.script(Lstm())


def compare(torch, batch, rounds=15):
    """Seconds by name, in interleaved rounds."""
    timed = Recurrent()
    timed.setup("LSTM carried", batch)
    model, x = scripted(torch), torch.from_numpy(timed.x.copy()).requires_grad_()

    def of_torch():
        model(x).sum().backward()

    calls = {
        "torch": of_torch,
        "normlib": lambda: timed.time_forward_backward("", batch),
        "products": products(timed.layer, timed.x),
        "steps": lambda: [timed.time_step("", batch) for _ in range(STEPS)],
    }
    seconds = {name: [] for name in calls}
    for done in range(rounds + 5):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if done >= 5:  # TorchScript compiles at first
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main():
    import torch

    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        raise SystemExit("benchmarks.recurrent: OPENBLAS_NUM_THREADS is not 1, expected one thread for all")
    torch.set_num_threads(1)
    normlib.set_num_threads(1)
    print("batch  torch ms  normlib ms  ratio  matrix products  one step of a stream, us")
    for batch in (1, 32):
        found = {name: statistics.median(values) for name, values in compare(torch, batch).items()}
        ratio, share = found["torch"] / found["normlib"], found["products"] / found["normlib"]
        times = f"{found['torch'] * 1e3:9.1f} {found['normlib'] * 1e3:11.1f}"
        print(f"{batch:5} {times} {ratio:6.2f} {share:16.0%} {found['steps'] / STEPS * 1e6:25.1f}")


if __name__ == "__main__":
    main()
