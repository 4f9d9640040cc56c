"""The character model of `normlib demo chars`: two LSTMs that differ in nothing but their norms."""

from dataclasses import replace

import numpy as np
import pytest

from normlib import cli
from normlib.examples import chars, lstm

TINY = replace(chars.QUICK, embedding=16, hidden=32, context=32, rows=16, steps=80, every=40, rates=(1e-2,))


@pytest.fixture(scope="module")
def text():
    return chars.Text(TINY.rows)


@pytest.fixture(scope="module", params=["layer norm", "plain"])
def trained(request, text):
    return (request.param, *chars.train(request.param, 1e-2, text, TINY))


def test_training_leaves_the_frequencies_of_characters_behind(text, trained):
    _, _, curve, _ = trained
    assert [step for step, _, _ in curve] == [40, 80]
    assert curve[1][2] < curve[0][2]
    assert curve[1][2] < text.by_frequency() - 0.3


def test_the_same_seed_gives_the_same_numbers(text, trained):
    kind, model, curve, _ = trained
    again, same, _ = chars.train(kind, 1e-2, text, TINY)
    assert same == curve
    assert all((again.parameters()[name] == value).all() for name, value in model.parameters().items())
    _, other, _ = chars.train(kind, 1e-2, text, replace(TINY, seed=1))
    assert other != curve


def test_gradients_are_what_the_loss_does(text):
    """A small step against the gradient of one parameter lowers the loss by its square."""
    piece = text.training[:33]
    for kind in chars.KINDS:
        model = chars.Model(kind, len(text.alphabet), TINY)
        before, _ = model.loss(piece)
        gradients = model.gradients()
        assert gradients.keys() == model.parameters().keys()
        for name, value in model.parameters().items():
            kept, square = value.copy(), float(np.square(gradients[name], dtype=float).sum())
            value -= np.float32(2e-3 / square) * gradients[name]
            after, _ = model.loss(piece)
            value[...] = kept
            assert (before - after) * np.log(2) == pytest.approx(2e-3, rel=0.2), (kind, name)


def test_both_models_begin_alike(text):
    normed, plain = (chars.Model(kind, len(text.alphabet), TINY).parameters() for kind in chars.KINDS)
    assert set(normed) - set(plain) == {"norm_ih_l0", "norm_hh_l0", "norm_cell_weight_l0", "norm_cell_bias_l0"}
    assert all((normed[name] == value).all() for name, value in plain.items())
    assert (plain["bias_l0"].reshape(4, -1) == [[0], [TINY.forget], [0], [0]]).all()


def test_no_paragraph_stands_in_both_parts_of_the_text(text):
    assert text.held_out.shape[1] == text.training.shape[1] == TINY.rows
    assert 8.9 < len(text.training) / len(text.held_out) < 9.1
    parts = ["".join(text.alphabet[i] for i in ids.T.ravel()) for ids in (text.training, text.held_out)]
    known, others = ({part for part in whole.split("\n\n") if len(part) > 40} for whole in parts)
    assert len(others) > 50
    assert not known & others


def test_frequencies_alone_are_the_entropy_of_characters():
    text = chars.Text(1)
    text.alphabet, text.training = "abcd", np.array([[0, 0, 0, 1, 2, 3, 0]]).T
    text.held_out = np.array([[0, 0, 1, 2]]).T
    counts = np.array([5, 2, 2, 2]) / 11
    assert text.by_frequency() == pytest.approx(-np.log2(counts)[[0, 0, 1, 2]].mean())


def test_a_text_held_out_is_one_text_however_it_is_cut(text, trained):
    _, model, _, _ = trained
    piece = text.held_out[:97]
    assert model.held_out(piece, 32) == pytest.approx(model.held_out(piece, 96), rel=1e-6)


def test_a_sample_is_text_of_the_alphabet(text, trained):
    _, model, _, _ = trained
    start = text.numbers("The ")
    first, same, other = (model.sample(start, 60, 0.7, seed) for seed in (0, 0, 1))
    assert first == same != other
    assert len(first) == 64
    assert first[:4] == list(start)
    assert set(first) <= set(range(len(text.alphabet)))


def test_what_is_coldly_sampled_a_step_at_a_time_is_what_whole_sequences_hold_most_likely(text, trained):
    _, model, _, _ = trained
    start = text.numbers("The ")
    written = np.array(model.sample(start, 60, 1e-4, 0))
    model.loss(written[:, None])
    _, _, logs = model.saved
    assert (logs[len(start) - 1 :, 0].argmax(axis=1) == written[len(start) :]).all()


def test_the_plain_lstm_is_that_of_torch():
    torch = pytest.importorskip("torch")
    ours, rng = lstm.LSTM(5, 6, rng=0), np.random.default_rng(0)
    ours.weights = {name: rng.normal(size=value.shape) for name, value in ours.weights.items()}
    theirs, names = torch.nn.LSTM(5, 6, dtype=torch.float64), {"bias_l0": "bias_ih_l0"}
    state = {names.get(name, name): torch.tensor(value) for name, value in ours.weights.items()}
    theirs.load_state_dict(state | {"bias_hh_l0": torch.zeros(24)})
    x, dy = rng.normal(size=(7, 3, 5)), rng.normal(size=(7, 3, 6))
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, *rng.normal(size=(2, 1, 3, 6)))]
    expected, last = theirs(tensors[0], tuple(tensors[1:]))
    expected.backward(torch.tensor(dy))
    output, after = ours.forward(x, tuple(t.detach().numpy() for t in tensors[1:]))
    dx, dstate = ours.backward(dy)
    pairs = [(output, expected), *zip(after, last, strict=True)]
    pairs += [(a, t.grad) for a, t in zip((dx, *dstate), tensors, strict=True)]
    pairs += [(g, getattr(theirs, names.get(name, name)).grad) for name, g in ours.gradients().items()]
    for a, b in pairs:
        np.testing.assert_allclose(a, b.detach().numpy(), atol=1e-13)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(chars, "QUICK", replace(TINY, steps=4, every=2))


def test_the_demo_prints_curves_figures_and_samples(quick, capsys):
    assert chars.main(["--quick"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["0.01"] in lines
    assert ["steps", "layer", "norm", "plain"] in lines
    curves = {line[0]: line[1:] for line in lines if len(line) == 3 and line[0] in ("2", "4")}
    ends = {" ".join(line[:-5]): line[-5:-1] for line in lines if "0.01" in line[1:3] and len(line) > 5}
    assert [len(values) for values in curves.values()] == [2, 2]
    assert [end[3] for end in ends.values()] == curves["4"]
    assert list(ends) == ["layer norm", "plain"]
    assert out.count("temperature 0.7:\n\n    The ") == 2


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_demo_draws_its_curves(quick, ending, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"curves.{ending}"
    assert chars.main(["--quick", "--plot", str(path)]) == 0
    assert path.stat().st_size > 5000
    assert str(path) in capsys.readouterr().out


def test_without_matplotlib_the_rest_runs(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chars, "find_spec", lambda name: None)
    assert chars.main(["--quick", "--plot", str(tmp_path / "curves.svg")]) == 1
    out, err = capsys.readouterr()
    assert err == "normlib demo chars: no plot without matplotlib: pip install matplotlib\n"
    assert "temperature" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["curves.txt", "curves", "nowhere/curves.svg"])
def test_a_plot_that_cannot_be_written_is_known_before_the_training(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        chars.main(["--plot", str(tmp_path / name)])
    assert stopped.value.code == 2
    assert "expected a .pdf, .png or .svg in a folder that there is" in capsys.readouterr().err


def test_the_command_line_knows_the_demo(quick, capsys):
    assert cli.main(["demo", "chars", "--quick"]) == 0
    assert "layer norm, rate 0.01" in capsys.readouterr().out
