"""The demo of depth: its transformers go back as they went forward, and its table tells what came of each."""

from dataclasses import replace

import numpy as np
import pytest

import normlib
from normlib.examples import depth
from normlib.examples.transformer import KINDS, Naive, Transformer

TINY = depth.Setting(width=8, heads=2, context=6, batch=2, steps=3, depths=(1, 2))
CHARACTERS = 11
EXACT = [kind for kind in KINDS if "naive" not in kind]


def some_texts(seed=0):
    return np.random.default_rng(seed).integers(0, CHARACTERS, (TINY.batch, TINY.context + 1))


def slope(network, texts, direction, step=1e-5):
    """Of the loss along a direction, by central differences."""
    network.subtract(-step * direction)
    above = network.loss(texts)
    network.subtract(2 * step * direction)
    below = network.loss(texts)
    network.subtract(-step * direction)
    return (above - below) / (2 * step)


@pytest.mark.parametrize("kind", EXACT)
def test_the_gradient_is_the_slope_of_the_loss(kind):
    network, texts = Transformer(kind, 2, TINY, CHARACTERS, np.float64), some_texts()
    loss, gradient = network.gradient(texts)
    assert loss == network.loss(texts)
    start, rng = 0, np.random.default_rng(1)
    for name, weight in network.parameters().items():  # each array by itself, so that a small one counts
        direction = np.zeros_like(gradient)
        direction[start : start + weight.size] = rng.normal(size=weight.size)
        np.testing.assert_allclose(
            slope(network, texts, direction), gradient @ direction, rtol=1e-5, atol=1e-9, err_msg=name
        )
        start += weight.size
    assert start == gradient.size


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "naive" in kind])
def test_the_naive_gradient_is_another_one_of_the_same_network(kind):
    texts = some_texts()
    naive = Transformer(kind, 2, TINY, CHARACTERS, np.float64)
    exact = Transformer(kind.replace("naive", "LayerNorm"), 2, TINY, CHARACTERS, np.float64)
    assert naive.loss(texts) == exact.loss(texts)
    assert 0.3 < depth.likeness(naive, exact, texts) < 0.999
    assert depth.likeness(exact, exact, texts) == pytest.approx(1)


def test_naive_takes_the_statistics_for_constants():
    rng = np.random.default_rng(0)
    x, residual, dy, dsum = rng.normal(size=(4, 5, 8))
    naive, exact = Naive(8, dtype=np.float64), normlib.LayerNorm(8, dtype=np.float64)
    for norm in (naive, exact):
        norm.weight[...] = np.arange(1, 9)
    y, total = naive.forward(x, residual=residual)
    np.testing.assert_array_equal(y, exact(x, residual=residual)[0])
    scale = naive.weight / np.sqrt(total.var(axis=-1, keepdims=True) + naive.eps)
    np.testing.assert_allclose(naive.backward(dy, dsum), dy * scale + dsum, rtol=1e-14)
    exact.backward(dy)
    for name, gradient in exact.gradients().items():
        np.testing.assert_array_equal(naive.gradients()[name], gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_no_character_sees_a_later_one(kind):
    network, texts = Transformer(kind, 2, TINY, CHARACTERS), some_texts()
    network.loss(texts)
    before = network.scores
    texts[:, 3] = (texts[:, 3] + 1) % CHARACTERS
    network.loss(texts)
    np.testing.assert_array_equal(network.scores[:, :3], before[:, :3])
    assert (network.scores[:, 3:] != before[:, 3:]).any(axis=-1).all()


def test_all_kinds_begin_with_the_same_weights():
    networks = [Transformer(kind, 2, TINY, CHARACTERS) for kind in KINDS]
    names = [name for name in networks[0].parameters() if "norm" not in name]
    assert len(names) == 2 * 6 + 3
    found = [[w for name, w in n.parameters().items() if w.ndim == 2] for n in networks]
    for weights in found[1:]:
        for weight, first in zip(weights, found[0], strict=True):
            np.testing.assert_array_equal(weight, first)


def test_the_stream_of_a_deep_network_grows_without_norms_and_keeps_its_scale_with_post_norm():
    last = {}
    for kind in EXACT:
        network = Transformer(kind, 24, replace(TINY, width=32), CHARACTERS)
        last[kind] = depth.measure(network, some_texts())["scales"][-1]
    assert last["no norm"] > 1e3
    assert last["post-norm, LayerNorm"] == pytest.approx(1, abs=1e-3)
    assert last["post-norm, RMSNorm"] == pytest.approx(1, abs=1e-3)
    assert 2 < last["pre-norm, LayerNorm"] < 10
    assert 2 < last["pre-norm, RMSNorm"] < 10


def test_adam_moves_each_weight_by_its_rate_at_first_and_by_a_part_of_it_in_a_warm_up():
    gradient = np.array([3.0, -0.01, 500.0])
    np.testing.assert_allclose(depth.Adam(1e-3).change(gradient), 1e-3 * np.sign(gradient), rtol=1e-5)
    slow = depth.Adam(1e-3, warm_up=4)
    for share in (0.25, 0.5, 0.75, 1, 1):
        np.testing.assert_allclose(slow.change(gradient), share * 1e-3 * np.sign(gradient), rtol=1e-5)


def test_the_text_is_of_the_characters_it_is_made_of_and_a_tenth_is_held_out():
    learn, held_out, characters = depth.read()
    assert characters == max(learn.max(), held_out.max()) + 1
    assert len(held_out) == pytest.approx((len(learn) + len(held_out)) / 10, rel=0.01)
    evenly, by_frequency = depth.guesses()
    assert 3 < by_frequency < evenly == pytest.approx(np.log(characters))


@pytest.fixture(scope="module")
def results():
    return [depth.train((kind, layers, TINY)) for kind in KINDS for layers in TINY.depths]


def test_the_same_seed_gives_the_same_numbers(results):
    kind, layers = "pre-norm, LayerNorm", 2
    (before,) = (result for result in results if (result["kind"], result["layers"]) == (kind, layers))
    assert depth.train((kind, layers, TINY)) == before
    assert depth.train((kind, layers, replace(TINY, seed=1))) != before


def test_each_network_is_measured_at_every_block_before_and_after(results):
    for result in results:
        assert len(result["losses"]) == TINY.steps
        for moment in ("start", "end"):
            measured = result[moment]
            assert len(measured["scales"]) == len(measured["gradients"]) == 2 * result["layers"]
            assert np.isfinite([measured["loss"], *measured["scales"], *measured["gradients"]]).all()


def test_it_ends_where_the_loss_is_no_number():
    with np.errstate(all="ignore"):
        result = depth.train(("no norm", 2, replace(TINY, rate=1e20, steps=20)))
    steps = len(result["losses"])
    assert steps < 20
    assert not np.isfinite(result["losses"][-1])
    assert depth.verdict(result, 4.6, 3.2) == f"diverged in step {steps}"


@pytest.mark.parametrize(
    ("loss", "words"), [(7.0, "diverged"), (3.15, "frequencies at most"), (3.3, "frequencies at most"), (2.2, "learns")]
)
def test_a_loss_is_held_against_those_of_who_guesses(loss, words):
    assert depth.verdict({"end": {"loss": loss}, "losses": [5.0]}, 4.6, 3.2) == words


def test_the_demo_prints_a_line_for_each_network(monkeypatch, capsys):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setattr(depth, "QUICK", TINY)
    assert depth.main(["--quick", "--steps", "1"]) == 0
    out = capsys.readouterr().out
    for kind in KINDS:
        lines = [line for line in out.splitlines() if line.startswith(kind + " ")]
        assert [line[len(kind) :].split()[0] for line in lines] == ["1", "2"]
        assert all(("cosine" in line) == ("naive" in kind) for line in lines)
    assert "1 steps, " in out


def test_without_matplotlib_there_is_a_table_and_a_word_about_it(results, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(depth, "run", lambda setting: results)
    monkeypatch.setattr(depth, "find_spec", lambda name: None)
    assert depth.main(["--quick", "--plot", str(tmp_path / "depth.png")]) == 1
    out, err = capsys.readouterr()
    assert sum(line.startswith(tuple(KINDS)) for line in out.splitlines()) == len(results)
    assert "no plot without matplotlib: pip install matplotlib" in err
    assert not list(tmp_path.iterdir())


def test_the_plot_is_a_file(results, monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(depth, "run", lambda setting: results)
    assert depth.main(["--plot", str(tmp_path / "depth.png")]) == 0
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["depth.txt", "nowhere/depth.png"])
def test_a_file_that_cannot_be_drawn_is_an_error_before_the_training(name, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(depth, "run", lambda setting: pytest.fail("trained for nothing"))
    with pytest.raises(SystemExit) as exit_:
        depth.main(["--plot", str(tmp_path / name)])
    assert exit_.value.code == 2
    assert "expected a .pdf, .png or .svg in a folder that there is" in capsys.readouterr().err
