"""The page of `normlib bench --html`: every case, what was lost first, nothing from elsewhere. Nothing is timed."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from normlib.bench import machine as bench_machine
from normlib.bench import main, report, runner
from normlib.bench.cases import Case, cases
from normlib.bench.page import page
from normlib.bench.pictures import Scale, amount

VOID = {"meta", "br", "hr", "img", "input", "link"}
ABOUT = {
    "normlib": "0.2.0", "backend": "cython", "numpy": "2.4.0", "threads": 1, "limit": "compiled copies",
    "peers": {"torch": "2.13.0", "jax": "0.10.2"}, "missing": {"vllm": "No module named 'vllm'"},
    "machine": {"cpu": "A processor", "cores": 2, "caches": {"L1": 32768, "L2": 1 << 20}, "date": "2026-11-29"},
}  # fmt: skip


class Element:
    def __init__(self, tag, attributes, parent):
        self.tag, self.attributes, self.parent, self.inner = tag, dict(attributes), parent, []

    def all(self, *tags):
        """The elements of these names within, in the order of the page."""
        for part in self.inner:
            if isinstance(part, Element):
                if not tags or part.tag in tags:
                    yield part
                yield from part.all(*tags)

    def get(self, name):
        return self.attributes.get(name, "")

    @property
    def text(self):
        return "".join(part if isinstance(part, str) else part.text for part in self.inner)


class Reader(HTMLParser):
    """Reads a page into elements; one that is not closed, or not open, is an error."""

    def __init__(self, text):
        super().__init__()
        self.root = self.open = Element("root", [], None)
        self.feed(text)
        self.close()
        assert self.open is self.root, f"<{self.open.tag}> is not closed"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"<{tag}> has an attribute twice"
        element = Element(tag, attributes, self.open)
        self.open.inner.append(element)
        if tag not in VOID:
            self.open = element

    def handle_startendtag(self, tag, attributes):
        self.open.inner.append(Element(tag, attributes, self.open))

    def handle_endtag(self, tag):
        assert tag == self.open.tag, f"</{tag}> closes <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, text):
        self.open.inner.append(text)


def read(text):
    return Reader(text).root


def result(case, **seconds):
    return runner.Result(case, {"copy": 1e-3, runner.OURS: 2e-3} | seconds, 0.01, 5, others=0.1)


def quick_results():
    """A quick run's cases; each seventh is lost to torch, each eleventh to JAX, each fifth has a noisy clock."""
    found = []
    for index, case in enumerate(cases(quick=True)):
        ours = case.bytes / 20e9 + 1e-6
        torch, jax = (ours * (1 - 1 / (index + 2) if index % n == 0 else 3 + index % 5) for n in (7, 11))
        times = {"copy": ours / (1.2 + index % 4), runner.OURS: ours, "torch": torch, "jax": jax}
        found.append(runner.Result(case, times, 0.5 if index % 5 == 0 else 0.01, 5, others=0.1))
    return found


@pytest.fixture(scope="module")
def results():
    return quick_results()


@pytest.fixture(scope="module")
def root(results):
    return read(page(results, ABOUT))


def section(root, name):
    (found,) = (part for part in root.all("section") if part.get("id") == name)
    return found


def rows(part):
    return [row for body in part.all("tbody") for row in body.all("tr")]


def cells(row):
    return [cell.text for cell in row.all("th", "td")]


def test_each_name_is_of_one_element_and_each_reference_leads_to_one(root):
    names = [element.get("id") for element in root.all() if element.get("id")]
    assert len(names) == len(set(names))
    asked = [name for element in root.all() for name in element.get("aria-labelledby").split()]
    asked += [link.get("href").removeprefix("#") for link in root.all("a")]
    assert asked
    assert set(asked) <= set(names)


def test_every_case_stands_in_one_row_of_the_tables(root, results):
    found = {}
    for group in {r.case.title for r in results}:
        for row in rows(section(root, group)):
            model, *rest = cells(row)
            found[group, model, *rest[:5]] = rest[5:]
    expected = {
        (c.title, c.model, c.pass_name, "x".join(map(str, c.shape)), c.layout, c.dtype, "out=" if c.out else "fresh"): r
        for r in results
        for c in [r.case]
    }
    assert found.keys() == expected.keys()
    for key, r in expected.items():
        ratios = [f"{r.peers[name]:.3g}" for name in ("torch", "jax")]
        assert found[key][3:] == [f"{r.over_limit:.2f}", "noisy" if r.noisy else "", *ratios]


def test_what_was_lost_stands_before_all_other_cases_the_worst_first(root, results):
    main_part = next(root.all("main"))
    names = [part.get("id") for part in main_part.inner if isinstance(part, Element)]
    assert names[:3] == ["summary", "lost", "machine"]
    lost = sorted((ratio, r.case.name) for r in results for ratio in r.peers.values() if ratio < 1)
    table = next(section(root, "lost").all("table"))
    assert len(lost) > 5
    assert [cells(row)[0] for row in rows(table)] == [name for _, name in lost]
    assert [cells(row)[2] for row in rows(table)] == [f"{ratio:.3g}" for ratio, _ in lost]
    links = [link.get("href").removeprefix("#") for link in table.all("a")]
    reached = {row.get("id"): row for row in root.all("tr") if row.get("id")}
    for link, (_, name) in zip(links, lost, strict=True):
        assert all(word in name for word in cells(reached[link])[:5])
    assert "Without vllm: No module named 'vllm'." in section(root, "lost").text


def test_goals_that_are_missed_stand_first(root):
    table = list(section(root, "lost").all("table"))[1]
    verdicts = [cells(row)[5] for row in rows(table)]
    assert verdicts == sorted(verdicts, key=lambda verdict: verdict == "met")
    assert len({verdict == "met" for verdict in verdicts}) == 2


@pytest.mark.parametrize(
    ("seconds", "words"),
    [({"torch": 3e-3}, "No case was lost to a peer."), ({}, "No peer took part.")],
)
def test_a_run_that_lost_nothing_says_so(seconds, words):
    found = section(read(page([result(cases(quick=True)[0], **seconds)], ABOUT)), "lost")
    assert words in found.text


def test_the_summary_is_that_of_the_report(root, results):
    tiles = [part.text for part in next(root.all("dl")).all("div")]
    lines = report.summary(results)
    assert len(tiles) == len(lines) == 3
    for tile, line in zip(tiles, lines, strict=True):
        assert f"{line['mean']:.3g} times " in tile
        assert f"the mean of {line['cases']} cases" in tile
        assert line["case"] in tile
        assert line["lost"] is None or f"{line['lost']} lost" in tile


def test_every_picture_has_a_point_for_each_case_and_tells_itself_in_words(root, results):
    for group in {r.case.title for r in results}:
        forward, backward, peers = (p for p in section(root, group).all("svg"))
        found = [r for r in results if r.case.title == group]
        for picture, chosen in (
            (forward, [r for r in found if not r.case.backward]),
            (backward, [r for r in found if r.case.backward]),
        ):
            points = {p.text: p for p in picture.all("circle", "path") if "dot" in p.get("class")}
            assert points.keys() == {f"{r.case.name}: {r.over_limit:.2f} times the limit" for r in chosen}
            for r in chosen:
                kinds = points[f"{r.case.name}: {r.over_limit:.2f} times the limit"].get("class").split()
                assert ("lost" in kinds) == (min(r.peers.values()) < 1)
                assert ("half" in kinds) == (r.case.dtype in ("float16", "bfloat16"))
                assert ("doubtful" in kinds) == r.noisy
        lost = [p.text for p in peers.all("path") if "dot lost" in p.get("class")]
        ratios = [ratio for r in found for ratio in r.peers.values()]
        assert len(lost) == sum(ratio < 1 for ratio in ratios)
        assert sum("dot" in p.get("class") for p in peers.all("circle", "path")) == len(ratios)
    pictures = [svg for svg in root.all("svg") if not svg.get("aria-hidden")]
    assert len(pictures) == 3 * (1 + len({r.case.title for r in results}))
    for svg in pictures:
        assert svg.get("role") == "img"
        title, words = svg.inner[:2]
        assert (title.tag, words.tag) == ("title", "desc")
        assert svg.get("aria-labelledby") == f"{title.get('id')} {words.get('id')}"
        assert title.text
        assert words.text


def test_points_lie_in_the_picture_the_lost_ones_left_of_one(root):
    for group in ("layer_norm", "batch_norm"):
        picture = list(section(root, group).all("svg"))[2]
        (line,) = (part.get("d") for part in picture.all("path") if part.get("class") == "limit")
        one = float(re.match(r"M([\d.]+)", line)[1])
        for point in picture.all("circle", "path"):
            if "dot" in point.get("class"):
                x, y = map(float, re.findall(r"[\d.]+", point.get("d") or f"{point.get('cx')} {point.get('cy')}")[:2])
                assert 50 <= x <= 368
                assert 22 <= y <= 236
                assert ("lost" in point.get("class")) == (x < one)


def test_tables_have_captions_and_heads_and_can_be_reached_by_keyboard(root):
    tables = list(root.all("table"))
    assert len(tables) == 8
    for table in tables:
        assert table.parent.get("tabindex") == "0"
        assert table.parent.get("role") == "region"
        (caption,) = table.all("caption")
        assert table.parent.get("aria-labelledby") == caption.get("id")
        heads = [head for part in table.all("thead") for head in part.all("th")]
        assert {head.get("scope") for head in heads} == {"col"}
        for row in rows(table):
            first, *others = row.all("th", "td")
            assert (first.tag, first.get("scope")) == ("th", "row")
            assert {cell.tag for cell in others} == {"td"}
            assert len(heads) == 1 + len(others)


def test_nothing_comes_from_elsewhere(results):
    text = page(results, ABOUT)
    root = read(text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(", text)
    for element in root.all():
        assert element.tag not in ("link", "img", "iframe", "object")
        assert not element.get("src")
        assert element.get("href").startswith("#") or element.tag != "a"


HOSTILE = "\"><script>alert(1)</script>&amp;'<b>"


def test_all_text_is_escaped():
    case = Case(HOSTILE, HOSTILE, (2, 8), HOSTILE, "float32", fused=(HOSTILE,))
    found = result(case, **{HOSTILE: 1e-3})
    found.refused = {HOSTILE: HOSTILE}
    about = dict.fromkeys(("normlib", "backend", "numpy", "limit"), HOSTILE)
    about |= {"threads": 1, "peers": {HOSTILE: HOSTILE}, "missing": {HOSTILE: HOSTILE}}
    about["machine"] = dict.fromkeys(("cpu", "cores", "isa", "openmp", "system", "python", "date"), HOSTILE)
    about["machine"]["caches"] = {HOSTILE: 64}
    root = read(page([found, replace(found)], about))
    assert len(list(root.all("script"))) == 1
    assert {b.text for b in root.all("b")} == {"2", "0.5"}
    assert next(root.all("h1")).text == f"normlib {HOSTILE}: 2 cases on 1 thread"
    titles = [svg_title.text for svg in root.all("svg") for svg_title in svg.all("title")]
    assert any(HOSTILE in title for title in titles)


def test_the_same_run_gives_the_same_page_from_its_json_too(results):
    again, about = report.from_json(json.loads(json.dumps(report.as_json(results, ABOUT))))
    assert again == results
    assert about == ABOUT
    assert page(again, about) == page(results, ABOUT)


def test_a_run_without_a_machine_has_a_page():
    """One that an older version has written."""
    about = {name: value for name, value in ABOUT.items() if name != "machine"}
    root = read(page([result(cases(quick=True)[0])], about))
    assert "Processor" not in section(root, "machine").text
    assert "compiled copies" in section(root, "machine").text


def test_doubts_are_told():
    found = [result(case) for case in cases(quick=True)[:3]]
    found[0].noise, found[1].shared, found[2].refused = 0.5, True, {"jax": "the output differs"}
    told = section(read(page(found, ABOUT | {"left_out": 4, "interrupted": True})), "lost").text
    for words in (
        "The run was interrupted",
        "4 cases left out",
        "The clock was too noisy to tell in 1 of 3",
        "Other programs wanted our cores in 1 of 3",
        f"Not timed: jax, {found[2].case.name}: the output differs.",
    ):
        assert words in told


def test_one_thread_has_a_column_where_there_are_several():
    found = [result(cases(quick=True)[0], **{runner.ALONE: 3e-3})]
    (table,) = section(read(page(found, ABOUT | {"threads": 2})), found[0].case.title).all("table")
    assert cells(next(table.all("tr")))[-1] == "1 thread"
    assert cells(rows(table)[0])[-1] == "1.5"


@pytest.mark.parametrize("values", [[3.0], [1.0, 1.2], [0.05, 40.0], [6e3, 4e8], [1e-9, 1e9]])
def test_an_axis_holds_its_values_and_a_few_round_ticks(values):
    scale = Scale(values, 10, 110)
    assert [scale(value) for value in values] == sorted(scale(value) for value in values)
    assert all(10 <= scale(value) <= 110 for value in values)
    ticks = scale.ticks()
    assert len(ticks) <= 8
    assert all(scale.least <= tick * 1.01 and tick <= scale.largest * 1.01 for tick in ticks)
    if max(values) > 10 * min(values):
        assert len(ticks) >= 2


def test_bytes_in_words():
    assert [amount(size) for size in (64, 6144, 1.5e6, 2.5e9)] == ["64 B", "6.14 kB", "1.5 MB", "2.5 GB"]


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ink", ["ink", "soft", "ours", "lost"])
def test_text_can_be_told_from_its_ground(scheme, ink):
    """4.5 to 1: WCAG 2.2, 1.4.3."""
    style = files("normlib.bench").joinpath("page.css").read_text()
    colours = {name: pair.split(", ")[scheme] for name, pair in re.findall(r"--(\w+): light-dark\((.*?)\)", style)}
    for ground in ("paper", "sheet") if ink != "ink" else ("paper", "sheet", "loss", "chosen"):
        high, low = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, ground


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("normlib.bench.runner.QUICK", runner.Budget(total=0.0, sample=0.0, rounds=(2, 2)))
    return ["--quick", "--only", "BERT 1x768 float32", "--peers", "numpy"]


def test_the_command_writes_the_page_and_writes_it_again_from_the_json(quick, tmp_path, capsys):
    first, second, stored = tmp_path / "first.html", tmp_path / "second.html", tmp_path / "one.json"
    assert main([*quick, "--html", str(first), "--json", str(stored)]) == 0
    printed = capsys.readouterr().out
    assert f"written: {first}" in printed
    assert "BERT-base" in first.read_text()
    assert json.loads(stored.read_text())["machine"]["python"]
    assert main(["--from", str(stored), "--html", str(second)]) == 0
    again = capsys.readouterr().out
    assert second.read_bytes() == first.read_bytes()
    assert again.partition("\nwritten")[0].strip() == printed.partition("\nwritten")[0].strip()


def entry(**changes):
    (written,) = report.as_json([result(cases(quick=True)[0])], ABOUT)["results"]
    return ABOUT | {"results": [written | changes]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{", "is no run of normlib bench --json: Expecting"),
        ([], "expected an object with a list of results"),
        ({"results": []}, "expected an object with a list of results"),
        ({"normlib": "1", "torch": "2", "results": [{}]}, "backend is None, expected a value of type str"),
        (entry(seconds={"copy": 1.0}), "expected bytes and times over 0, ours and that of a copy among them"),
        (entry(seconds={runner.OURS: 1.0}), "expected bytes and times over 0, ours and that of a copy among them"),
        (entry(seconds={runner.OURS: 1.0, "copy": 0.0}), "expected bytes and times over 0"),
        (entry(seconds={runner.OURS: float("nan"), "copy": 1.0}), "expected bytes and times over 0"),
        (entry(seconds=None), "a result is not of a case and its times"),
        (entry(shape=[0, 8]), "expected bytes and times over 0"),
        (entry(shape=3), "a result is not of a case and its times"),
        (entry(dtype="float8"), "a result is not of a case and its times (KeyError: 'float8')"),
        (ABOUT | {"machine": [], "results": entry()["results"]}, "machine is [], expected a value of type dict"),
    ],
)
def test_what_is_no_stored_run_is_an_error_in_words(data, words, tmp_path, capsys):
    path = tmp_path / "one.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(SystemExit) as exit_:
        main(["--from", str(path)])
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "/nonexistent.json"], "'/nonexistent.json' cannot be read: No such file or directory"),
        (["--html", "/nonexistent/x.html"], "there is no folder '/nonexistent' to write 'x.html' to"),
        (["--model", "m:f", "--html", "x.html"], "--html says nothing of a model"),
    ],
)
def test_the_command_refuses_before_it_measures(arguments, words, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--quick"], ["--threads", "1"], ["--only", "x"], ["--model", "m:f"], ["--list"]])
def test_a_run_that_is_over_takes_no_choice_of_what_to_measure(option, tmp_path, capsys):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(entry()))
    with pytest.raises(SystemExit):
        main(["--from", str(path), *option])
    assert f"{option[0]} says nothing of a run that is over (--from)" in capsys.readouterr().err


def test_the_machine_is_told_as_far_as_the_system_tells(tmp_path):
    assert list(bench_machine.machine()["caches"]) == ["L1", "L2", "LLC"]
    (tmp_path / "cpuinfo").write_text("model name\t: A CPU\ncpu family\t: 25\nmodel\t: 17\n\nmodel name\t: Another\n")
    assert bench_machine._cpu(str(tmp_path / "cpuinfo")) == "A CPU (family 25, model 17)"
