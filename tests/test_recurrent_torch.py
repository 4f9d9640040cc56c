"""The recurrent layers beside the equations of the papers, written out in torch: autograd, float64, a cell at a time.

LSTM: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equations 20 to 22. GRU: their supplementary material.
"""

import pytest
from recurrences import CELLS, EPS, GRUS, LSTMS, Problem, build, check, parts, run

import normlib

torch = pytest.importorskip("torch")

each_cell = pytest.mark.parametrize("cell", CELLS)


def normalize(v):
    """Equations 15 and 16 without their gain and bias, and with eps."""
    mean = v.mean(-1, keepdim=True)
    return (v - mean) / torch.sqrt(((v - mean) ** 2).mean(-1, keepdim=True) + EPS)


def lstm_of_the_paper(p, x, h, c, carried=False):
    sums = normalize(p["weight_hh"] @ h) * p["norm_hh"] + normalize(p["weight_ih"] @ x) * p["norm_ih"] + p["bias"]
    i, f, g, o = sums.chunk(4)
    return outcome(p, torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g), o, carried)


def lstm_per_gate(p, x, h, c):
    gates = []
    for part in range(4):
        w_ih, w_hh, norm, bias = (p[name].chunk(4)[part] for name in ("weight_ih", "weight_hh", "norm", "bias"))
        gates.append(normalize(w_ih @ x + w_hh @ h) * norm + bias)
    i, f, g, o = gates
    return outcome(p, torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g), o, carried=True)


def outcome(p, c, o, carried):
    """What goes on from a cell: h and c."""
    normalized = c
    if "norm_cell_weight" in p:
        normalized = normalize(c) * p["norm_cell_weight"] + p["norm_cell_bias"]
    return torch.sigmoid(o) * torch.tanh(normalized), normalized if carried else c


def gru_of_the_paper(p, x, h):
    """As the paper has it: z lets in what is new. That of the layer, and of torch, is one minus it: gains and bias of
    the other sign."""
    n = len(h)
    sign = torch.cat([torch.ones(n), -torch.ones(n)]).to(h)  # of r and z
    of_h = normalize(p["weight_hh"][: 2 * n] @ h) * (sign * p["norm_hh"][: 2 * n])
    of_x = normalize(p["weight_ih"][: 2 * n] @ x) * (sign * p["norm_ih"][: 2 * n]) + sign * p["bias"][: 2 * n]
    r, z = (of_h + of_x).chunk(2)
    new_h = normalize(p["weight_hh"][2 * n :] @ h) * p["norm_hh"][2 * n :] + p["bias_hn"]
    new_x = normalize(p["weight_ih"][2 * n :] @ x) * p["norm_ih"][2 * n :] + p["bias"][2 * n :]
    return (1 - torch.sigmoid(z)) * h + torch.sigmoid(z) * torch.tanh(new_x + torch.sigmoid(r) * new_h)


def gru_per_gate(p, x, h):
    (w_ir, w_iz, w_in), (w_hr, w_hz, w_hn) = p["weight_ih"].chunk(3), p["weight_hh"].chunk(3)
    (norm_r, norm_z, norm_n), (b_r, b_z, b_n) = p["norm"].chunk(3), p["bias"].chunk(3)
    r = torch.sigmoid(normalize(w_ir @ x + w_hr @ h) * norm_r + b_r)
    z = torch.sigmoid(normalize(w_iz @ x + w_hz @ h) * norm_z + b_z)
    new = torch.tanh(normalize(w_in @ x + r * (w_hn @ h)) * norm_n + b_n)
    return (1 - z) * new + z * h


def step(layer, p, x, state):
    """The state after a step."""
    paper = layer.variant != "per_gate"
    if isinstance(layer, normlib.LayerNormGRU):
        return ((gru_of_the_paper if paper else gru_per_gate)(p, x, *state),)
    return lstm_of_the_paper(p, x, *state, layer.variant == "carried") if paper else lstm_per_gate(p, x, *state)


def network(layer, parameters, x, state, lengths=None):
    """Outputs and last states, of sequences that each run alone, to their own length."""
    outputs, last = [], []
    for b, length in enumerate(lengths or [len(x)] * x.shape[1]):
        sequence, ends = x[:length, b], []
        for k in range(layer.num_layers):
            sides = []
            for suffix in [f"_l{k}", f"_l{k}_reverse"][: 1 + layer.bidirectional]:
                p = {name.removesuffix(suffix): v for name, v in parameters.items() if name.endswith(suffix)}
                now, seen, forward = tuple(part[len(ends), b] for part in state), [], suffix == f"_l{k}"
                for t in range(length) if forward else reversed(range(length)):
                    now = step(layer, p, sequence[t], now)
                    seen.append(now[0])
                sides.append(seen if forward else seen[::-1])
                ends.append(now)
            sequence = [torch.cat(outcomes) for outcomes in zip(*sides, strict=True)]
        padding = [torch.zeros(len(sides) * layer.hidden_size, dtype=x.dtype)] * (len(x) - length)
        outputs.append(torch.stack([*sequence, *padding]))
        last.append([torch.stack(ends) for ends in zip(*ends, strict=True)])
    return torch.stack(outputs, 1), tuple(torch.stack(ends, 1) for ends in zip(*last, strict=True))


def expected(layer, problem, detached_after=0):
    """As `run` has them; no gradient goes back through the state after `detached_after` steps."""
    parameters = {name: torch.tensor(value, requires_grad=True) for name, value in layer.parameters().items()}
    x = torch.tensor(problem.x, requires_grad=True)
    first = state = tuple(torch.tensor(part, requires_grad=True) for part in parts(problem.state))
    outputs = []
    if detached_after:
        output, state = network(layer, parameters, x[:detached_after], state)
        outputs, state = [output], tuple(part.detach() for part in state)
    output, last = network(layer, parameters, x[detached_after:], state, problem.lengths)
    output = torch.cat([*outputs, output])
    loss = (output * torch.tensor(problem.doutput)).sum()
    for part, reached in zip(last, parts(problem.dstate), strict=True):
        loss = loss + (part * torch.tensor(reached)).sum()
    loss.backward()
    found = {"output": output, "dx": x.grad} | {f"d{name}": p.grad for name, p in parameters.items()}
    found |= {f"state {k}": part for k, part in enumerate(last)}
    found |= {f"dstate {k}": part.grad for k, part in enumerate(first)}
    return {name: value.detach().numpy() for name, value in found.items()}


@each_cell
def test_one_layer(backend, cell):
    layer = build(cell, 3, 19)
    problem = Problem(layer, steps=5, rows=2)
    check(run(layer, problem), expected(layer, problem), 1e-12)


@each_cell
def test_layers_in_both_directions_of_sequences_of_some_lengths(backend, cell):
    layer = build(cell, 3, 5, 2, bidirectional=True)
    problem = Problem(layer, steps=4, rows=4, lengths=[4, 1, 0, 3])
    check(run(layer, problem), expected(layer, problem), 1e-12)


@each_cell
def test_truncated_backpropagation_is_a_detached_state(backend, cell):
    layer = build(cell, 3, 5, 2)
    problem = Problem(layer, steps=5, rows=2)
    _, state = layer(problem.x[:3], problem.state)
    layer.backward(problem.doutput[:3])
    layer(problem.x[3:], state)
    layer.backward(problem.doutput[3:], problem.dstate)
    wanted = expected(layer, problem, detached_after=3)
    check(layer.gradients(), {name: wanted[f"d{name}"] for name in layer.parameters()}, 1e-12)


@pytest.mark.parametrize("cell", ["lstm paper, raw cell", "lstm per_gate, raw cell", *GRUS])
def test_the_equations_without_norms_are_torchs_own_layers(cell, monkeypatch):
    """So what is written above has gates, layers, directions and lengths as torch has them."""
    monkeypatch.setitem(globals(), "normalize", lambda v: v)
    layer = build(cell, 3, 5, 2, bidirectional=True)
    peer = (torch.nn.LSTM if cell in LSTMS else torch.nn.GRU)(3, 5, 2, bidirectional=True, dtype=torch.float64)
    own = layer.parameters()
    for name, value in own.items():
        if name.startswith(("norm", "bias_hn")):
            value[...] = name.startswith("norm")
    with torch.no_grad():
        for name, value in peer.named_parameters():
            value.copy_(torch.tensor(own.get(name.replace("bias_ih", "bias"), 0.0)))
    problem = Problem(layer, steps=4, rows=3, lengths=[4, 1, 3])
    x, lengths = torch.tensor(problem.x), torch.tensor(problem.lengths)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    state = tuple(torch.tensor(part) for part in parts(problem.state))
    output, last = peer(packed, state if cell in LSTMS else state[0])
    output, _ = torch.nn.utils.rnn.pad_packed_sequence(output)
    torchs = {"output": output} | {f"state {k}": part for k, part in enumerate(parts(last))}
    torchs = {name: value.detach().numpy() for name, value in torchs.items()}
    written = expected(layer, problem)
    check({name: written[name] for name in torchs}, torchs, 1e-13)
