"""The demo of batches: its convolution goes back as it went forward, and the tables tell what each norm does."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from normlib.examples import batches
from normlib.testing import gradcheck


@pytest.fixture(scope="module")
def networks():
    """Of each norm the network after one epoch of digits in batches of 32, and what is held out."""
    learn, held_out = batches.images(0)
    held_out = tuple(array[:150] for array in held_out)
    return {
        norm: batches.train(batches.network(np.random.default_rng(0), norm), learn, 32, 1, 0) for norm in batches.NORMS
    }, held_out


def test_a_convolution_is_a_product_with_each_patch_and_goes_back():
    rng = np.random.default_rng(0)
    layer = batches.Convolution(rng, 2, 3)
    layer.bias[:] = rng.normal(size=3)
    x = rng.normal(size=(2, 5, 4, 2))
    kernel = layer.weight.reshape(2, 3, 3, 3)  # channel, row, column, output
    expected = np.einsum("nijc,cijo->no", x[:, 1:4, :3], kernel) + layer.bias
    np.testing.assert_allclose(layer.forward(x)[:, 1, 0], expected, rtol=1e-12)

    def gradients(dy, x):
        layer.forward(x)
        return [layer.backward(dy)]

    assert gradcheck(layer.forward, gradients, x) < 1e-8


def test_what_changes_the_light_of_an_image_does_nothing_to_an_instance_norm(networks):
    trained, held_out = networks
    right = {norm: batches.accuracy(layers, held_out) for norm, layers in trained.items()}
    dark = {norm: batches.accuracy(layers, held_out, 0.5, 0.5) for norm, layers in trained.items()}
    assert min(right.values()) > 0.6
    assert dark["instance norm"] == pytest.approx(right["instance norm"], abs=0.01)
    assert dark["batch norm"] < right["batch norm"] - 0.1


def test_batch_norm_alone_needs_evaluation(networks):
    trained, held_out = networks
    for norm, layers in trained.items():
        right = batches.accuracy(layers, held_out)
        left = batches.without_evaluation(layers, held_out)
        assert left < right - 0.05 if norm == "batch norm" else left == pytest.approx(right, abs=0.01), norm


def test_batches_hold_every_image_once_mixed_or_of_two_kinds():
    (_, labels), _ = batches.images(0)
    for make, kinds in ((batches.mixed, 10), (batches.of_two_kinds, 2)):
        found = make(np.random.default_rng(0), labels, 32)
        np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(len(labels)))
        assert max(map(len, found)) == 32
        assert max(len(set(labels[batch])) for batch in found) == kinds


def test_what_is_frozen_stays(monkeypatch):
    seen, original = [], batches.train

    def spy(layers, learn, batch, *rest):
        before = [layers[1].state_dict()[name].copy() for name in ("weight", "running_mean")]
        learn = tuple(array[:64] for array in learn)
        original(layers, learn, batch, *rest)
        after = [layers[1].state_dict()[name] for name in ("weight", "running_mean")]
        seen.append([bool((a == b).all()) for a, b in zip(before, after, strict=True)])
        return layers

    monkeypatch.setattr(batches, "train", spy)
    for frozen in (False, True):
        batches.refined("batch norm", 0, 1, frozen)
    assert seen == [[False, False], [False, False], [False, False], [True, True]]


def test_it_prints_a_line_for_each_norm_in_each_table(monkeypatch, capsys):
    def measure(norm, seed, epochs):
        assert epochs == 5
        yield from ((table, column, (seed + 1) / 4) for table in batches.TITLES for column in ("one", "two"))

    monkeypatch.setattr(batches, "measure", measure)
    assert batches.main([]) == 0
    out = capsys.readouterr().out
    for norm in batches.NORMS:
        lines = [line for line in out.splitlines() if line.startswith(norm)]
        assert [line.split()[len(norm.split()) :] for line in lines] == [["50.0", "(25.0", "to", "75.0)"] * 2] * 3


def test_the_same_seed_gives_the_same_figures(monkeypatch):
    learn, held_out = (tuple(array[:100] for array in part) for part in batches.images(0))
    monkeypatch.setattr(batches, "images", lambda seed: (learn, held_out))
    monkeypatch.setattr(batches, "BATCHES", (8, 32))
    first = list(batches.measure("batch norm", 0, 1))
    assert first == list(batches.measure("batch norm", 0, 1))
    assert [table for table, *_ in first] == ["batch"] * 2 + ["changed"] * 4 + ["data"] * 3
