"""What one step of a recurrent layer with layer norm computes between two matrix products, and that step in NumPy.

The arrays of a step lie side by side in arrays with an axis of time in front. With z(v) = (v - mean) / sqrt(var + eps):

    from_x, from_h      W_ih x and W_hh h; backward, the gradients with respect to them
    gates               i, f, g, o or r, z, n; backward, room
    inner               the cell of an LSTM before its norm; in a GRU what r opens, or the sum under n
    squashed            tanh of the cell
    mean, rstd          statistics in float64, those of one norm after those of another
    h_before, h_after, c_before, c_after    the states around the step

Ba, Kiros and Hinton, "Layer Normalization", 2016, arXiv:1607.06450: equations 20 to 22; the supplementary for the GRU.
"""

from typing import NamedTuple

import numpy as np

from .numpy_backend import ACTIVATIONS

_sigmoid = ACTIVATIONS["sigmoid"][0]


class Norm(NamedTuple):
    """Columns of an array that are normalized, in groups of neighbours, and where their statistics begin."""

    source: str
    statistics: int
    first: int
    size: int
    groups: int = 1

    @property
    def columns(self):
        return slice(self.first, self.first + self.size * self.groups)


class Cell(NamedTuple):
    """The formulas of a layer: which cell, where its norms stand, and what is carried from step to step."""

    lstm: bool
    per_gate: bool  # a norm for each gate, on the sum of both products
    cell_norm: bool
    carried: bool  # the normalized cell goes on to the next step
    hidden: int
    eps: float

    @property
    def gates(self):
        return 4 if self.lstm else 3

    @property
    def norms(self):
        """All norms of a step."""
        n, width = self.hidden, self.gates * self.hidden
        if self.lstm:
            places = [("from_h", 0, n, 4)] if self.per_gate else [("from_x", 0, width, 1), ("from_h", 0, width, 1)]
            places += [("inner", 0, n, 1)] * self.cell_norm
        elif self.per_gate:
            places = [("from_h", 0, n, 2), ("inner", 0, n, 1)]
        else:
            places = [(name, *place) for name in ("from_x", "from_h") for place in ((0, 2 * n, 1), (2 * n, n, 1))]
        found, statistics = [], 0
        for source, *place in places:
            found.append(Norm(source, statistics, *place))
            statistics += place[-1]
        return found

    def shapes(self, inputs):
        """The parameters by name, and their shapes."""
        n, width = self.hidden, self.gates * self.hidden
        named = {"weight_ih": (width, inputs), "weight_hh": (width, n), "bias": (width,)}
        named |= {"norm": (width,)} if self.per_gate else {"norm_ih": (width,), "norm_hh": (width,)}
        if not self.lstm:
            return named if self.per_gate else named | {"bias_hn": (n,)}
        return named | dict.fromkeys(("norm_cell_weight", "norm_cell_bias"), (n,)) if self.cell_norm else named


def _flat(z):
    """Of rows, those of no rows too."""
    return z.reshape(len(z), z.shape[1] * z.shape[2])


class Steps:
    """The steps of a layer over one sequence of each row, forward or backward, in NumPy.

    `arrays` are those of the module's docstring and the parameters; ``y`` where outputs are not the states; backward
    ``dy``, ``dh`` and ``dc`` (what reaches the states before a step, in place) and ``product`` (what reaches h by the
    next product). An axis of time of one element serves all steps. `lengths`: how many steps of a row count; None: all.
    """

    def __init__(self, cell, arrays, lengths=None):
        self.cell, self.arrays, self.lengths = cell, arrays, lengths
        self.sums = {name: np.zeros(shape) for name, shape in cell.shapes(1).items() if len(shape) == 1}

    def forward(self, t):
        """The states after step t, of its products and the states before."""
        with np.errstate(all="ignore"):
            found = self._lstm(t) if self.cell.lstm else self._gru(t)
        on = self._on(t)
        for name, value in found.items():
            self._set(name, t, np.where(on, value, self._at(name.replace("after", "before"), t)))
        if "y" in self.arrays:
            self._set("y", t, np.where(on, found["h_after"], 0))

    def backward(self, t):
        """The gradients with respect to the products of step t and the states before it."""
        on = self._on(t)
        past = {"dh": self._at("dh", t) + self._at("product", t)}
        if self.cell.lstm:
            past["dc"] = self._at("dc", t)
        reached = past | {"dh": past["dh"] + self._at("dy", t)}
        with np.errstate(all="ignore"):
            found = (self._lstm_back if self.cell.lstm else self._gru_back)(t, on, **reached)
        for name, value in found.items():
            self._set(name, t, np.where(on, value, past.get(name, 0)))

    def gradients(self):
        """Those of the parameters beside the products, in float64."""
        return self.sums

    # -- the formulas ----

    def _lstm(self, t):
        cell, w, n = self.cell, self._parameters(), self.cell.hidden
        if cell.per_gate:
            self._set("from_h", t, self._at("from_h", t) + self._at("from_x", t))
            u = self._z("from_h", t, new=True) * w["norm"] + w["bias"]
        else:
            u = self._z("from_x", t, new=True) * w["norm_ih"] + self._z("from_h", t, new=True) * w["norm_hh"]
            u += w["bias"]
        gates = np.where(np.arange(4 * n) // n == 2, np.tanh(u), _sigmoid(u))
        i, f, g, o = np.split(gates, 4, axis=1)
        self._set("gates", t, gates)
        self._set("inner", t, f * self._at("c_before", t) + i * g)
        inner = v = self._at("inner", t)
        if cell.cell_norm:
            v = self._z("inner", t, new=True) * w["norm_cell_weight"] + w["norm_cell_bias"]
        self._set("squashed", t, np.tanh(v))
        return {"h_after": o * self._at("squashed", t), "c_after": v if cell.carried else inner}

    def _lstm_back(self, t, on, dh, dc):
        cell, w = self.cell, self._parameters()
        i, f, g, o = np.split(self._at("gates", t), 4, axis=1)
        squashed, c = self._at("squashed", t), self._at("c_before", t)
        dv = dh * o * (1 - squashed**2) + (dc if cell.carried else 0)
        if cell.cell_norm:
            self._add(on, norm_cell_weight=dv * self._z("inner", t), norm_cell_bias=dv)
            dv = self._through("inner", t, dv * w["norm_cell_weight"])
        dc = dv if cell.carried else dv + dc
        du = (dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * squashed * o * (1 - o))
        du = np.concatenate(du, axis=1)
        self._add(on, bias=du)
        found = {"dh": 0, "dc": dc * f}
        weights = {"from_h": "norm"} if cell.per_gate else {"from_x": "norm_ih", "from_h": "norm_hh"}
        for source, weight in weights.items():
            self._add(on, **{weight: du * self._z(source, t)})
            found[source] = self._through(source, t, du * w[weight])
        return found  # with a norm a gate the gradient of the sum is that of both products

    def _gru(self, t):
        cell, w, both = self.cell, self._parameters(), 2 * self.cell.hidden
        x, h = self._at("from_x", t), self._at("from_h", t)
        if cell.per_gate:
            h[:, :both] += x[:, :both]
            self._set("from_h", t, h)
            opened = _sigmoid(self._z("from_h", t, new=True) * w["norm"][:both] + w["bias"][:both])
            self._set("inner", t, x[:, both:] + opened[:, : cell.hidden] * h[:, both:])
            u = self._z("inner", t, new=True) * w["norm"][both:] + w["bias"][both:]
        else:
            x = self._z("from_x", t, new=True) * w["norm_ih"] + w["bias"]
            h = self._z("from_h", t, new=True) * w["norm_hh"]
            opened = _sigmoid(x[:, :both] + h[:, :both])
            self._set("inner", t, h[:, both:] + w["bias_hn"])
            u = x[:, both:] + opened[:, : cell.hidden] * self._at("inner", t)
        self._set("gates", t, np.concatenate((opened, np.tanh(u)), axis=1))
        _, z, n = np.split(self._at("gates", t), 3, axis=1)
        return {"h_after": (1 - z) * n + z * self._at("h_before", t)}

    def _gru_back(self, t, on, dh):
        cell, w, both = self.cell, self._parameters(), 2 * self.cell.hidden
        r, z, n = np.split(self._at("gates", t), 3, axis=1)
        inner, h = self._at("inner", t), self._at("from_h", t)
        dn = dh * (1 - z) * (1 - n**2)
        dz = dh * (self._at("h_before", t) - n) * z * (1 - z)
        if not cell.per_gate:
            du = np.concatenate((dn * inner * r * (1 - r), dz, dn), axis=1)
            dv = np.concatenate((du[:, :both], dn * r), axis=1)
            self._add(on, bias=du, norm_ih=du * self._z("from_x", t))
            self._add(on, norm_hh=dv * self._z("from_h", t), bias_hn=dn * r)
            of_x = self._through("from_x", t, du * w["norm_ih"])
            return {"dh": dh * z, "from_x": of_x, "from_h": self._through("from_h", t, dv * w["norm_hh"])}
        z_inner = self._z("inner", t)
        dv = self._through("inner", t, dn * w["norm"][both:])
        du = np.concatenate((dv * h[:, both:] * r * (1 - r), dz), axis=1)
        of_norm = np.concatenate((du * self._z("from_h", t), dn * z_inner), axis=1)
        self._add(on, bias=np.concatenate((du, dn), axis=1), norm=of_norm)
        of_sum = self._through("from_h", t, du * w["norm"][:both])
        of_x, of_h = (np.concatenate((of_sum, last), axis=1) for last in (dv, dv * r))
        return {"dh": dh * z, "from_x": of_x, "from_h": of_h}

    # -- arrays and norms ----

    def _on(self, t):
        return np.True_ if self.lengths is None else (t < self.lengths)[:, None]

    def _at(self, name, t):
        array = self.arrays[name]
        return array[t % len(array)].astype(np.float64)

    def _set(self, name, t, value):
        array = self.arrays[name]
        array[t % len(array)] = value

    def _parameters(self):
        return {name: self.arrays[name].astype(np.float64) for name in self.sums}

    def _add(self, on, **terms):
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + np.where(on, value, 0).sum(axis=0)

    def _of(self, source, t, new=False):
        """The norms of an array: columns, what is normalized (rows, groups, elements), rstd; new: statistics of now."""
        v = self._at(source, t)
        for norm in self.cell.norms:
            if norm.source != source:
                continue
            part = v[:, norm.columns].reshape(len(v), norm.groups, norm.size)
            first, count = norm.statistics * len(v), norm.groups * len(v)
            mean, rstd = (a[t % len(a), first : first + count] for a in (self.arrays["mean"], self.arrays["rstd"]))
            if new:
                mean[:] = part.mean(axis=2).ravel()
                rstd[:] = 1 / np.sqrt(part.var(axis=2) + self.cell.eps).ravel()
            shape = (*part.shape[:2], 1)
            yield norm.columns, (part - mean.reshape(shape)) * rstd.reshape(shape), rstd.reshape(shape)

    def _z(self, source, t, new=False):
        """What is normalized in an array, side by side."""
        return np.concatenate([_flat(z) for _, z, _ in self._of(source, t, new)], axis=1)

    def _through(self, source, t, g):
        """The gradient with respect to an array of one that reaches what is normalized in it."""
        found = []
        for columns, z, rstd in self._of(source, t):
            part = g[:, columns].reshape(z.shape)
            means = part.mean(axis=2, keepdims=True), (part * z).mean(axis=2, keepdims=True)
            found.append(_flat(rstd * (part - means[0] - z * means[1])))
        return np.concatenate(found, axis=1)
