"""Which norm: the table, what prints it, and what its pages promise."""

import argparse
import doctest
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import normlib
from normlib import cli, which

DOCS = Path(__file__).resolve().parent.parent / "docs"
BATCHES, LENGTHS = (1, 2, 15, 16, 100_000), (1, 2, 100_000)


def printed(capsys, *args):
    """The status of ``normlib which-norm``, what it prints, and its errors."""
    status = cli.main(["which-norm", *args])
    return status, *capsys.readouterr()


# -- the table ----


@pytest.mark.parametrize("arch", which.architectures())
@pytest.mark.parametrize("training", [True, False])
def test_each_case_of_an_architecture_has_one_row_and_each_row_a_case(arch, training):
    reached = set()
    for batch in BATCHES:
        for length in LENGTHS:
            (row,) = normlib.which_norm(arch, batch, length, training)
            assert (row.architecture, row.training) == (arch, training)
            assert row.batch.holds(batch)
            assert row.length.holds(length)
            reached.add(row)
    assert reached == {row for row in which.rows() if (row.architecture, row.training) == (arch, training)}


def test_without_batch_and_length_all_cases_come():
    assert [row.batch for row in normlib.which_norm("cnn")] == [(16, None), (2, 15), (1, 1)]
    assert [row.length for row in normlib.which_norm("speech", training=False)] == [(1, 1), (2, None)]


@pytest.mark.parametrize("row", which.rows(), ids=lambda row: f"{row.architecture}, {row.when}")
def test_a_row_says_why_by_whom_and_where_it_can_be_seen(row):
    for field in ("norm", "placement", "why", "watch"):
        text = getattr(row, field)
        assert text.strip()
        assert "  " not in text
        assert "|" not in text  # it stands in a table
    assert re.search(r"[A-Z][a-z]+.* \d{4}\b", row.source)
    page, _, anchor = row.evidence.partition("#")
    assert anchor in anchors(DOCS / page)
    if row.command:
        program, command, demo = row.command.split()
        assert (program, command) == ("normlib", "demo")
        assert demo in cli.DEMOS


def test_other_names_stand_for_an_architecture():
    for other, name in which.aliases().items():
        assert other not in which.architectures()
        assert normlib.which_norm(other) == normlib.which_norm(name)
    assert normlib.which_norm(" Transformer_Decoder ") == normlib.which_norm("llm")


def test_what_an_entry_does_not_say_is_as_in_the_one_above():
    training, inference = (normlib.which_norm("dit", training=mode)[0] for mode in (True, False))
    assert training.watch != inference.watch
    assert training._replace(training=False, watch="") == inference._replace(watch="")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (("fly",), ValueError, "which_norm: arch is 'fly', expected one of cnn, detection, .*zscore"),
        ((3,), TypeError, "which_norm: arch is 3, expected a string"),
        (("cnn", 0), ValueError, "which_norm: batch is 0, expected 1 or more"),
        (("cnn", 2.5), TypeError, r"which_norm: batch is 2\.5, expected an int"),
        (("cnn", 2, "x"), TypeError, "which_norm: length is 'x', expected an int"),
    ],
)
def test_what_is_no_case(given, error, words):
    with pytest.raises(error, match=f"^{words}$"):
        normlib.which_norm(*given)


@pytest.mark.parametrize(
    ("span", "words"), [((), "any"), ((16,), "16 or more"), ((2, 15), "2 to 15"), ((1, 1), "1"), ((1, 9), "1 to 9")]
)
def test_spans_in_words(span, words):
    assert str(which.Span(*span)) == words


def test_the_table_is_read_when_it_is_asked_for():
    program = "import sys, normlib; assert not {'normlib.which', 'tomllib'} & set(sys.modules)"
    program += "; normlib.which_norm('cnn'); assert 'normlib.which' in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
    with pytest.raises(AttributeError, match="has no attribute 'witch_norm'"):
        normlib.witch_norm  # noqa: B018


# -- the command ----


def test_it_prints_the_row(capsys):
    status, out, err = printed(capsys, "--arch", "cnn", "--batch", "4")
    assert (status, err) == (0, "")
    (row,) = normlib.which_norm("cnn", 4)
    assert out.splitlines()[0] == "cnn, training, batch 2 to 15"
    for text in row[4:]:
        assert text in re.sub(r"\s+", " ", out)


def test_without_a_batch_it_prints_all_rows(capsys):
    status, out, _ = printed(capsys, "--arch", "cnn")
    assert status == 0
    assert [text.splitlines()[0] for text in out.split("\n\n")] == [
        "cnn, training, batch 16 or more",
        "cnn, training, batch 2 to 15",
        "cnn, training, batch 1",
    ]


def test_inference_and_length(capsys):
    _, out, _ = printed(capsys, "--arch", "speech", "--length", "1", "--infer")
    assert out.startswith("speech, inference, length 1\n")


def test_json_is_the_row(capsys):
    status, out, _ = printed(capsys, "--arch", "llm", "--infer", "--batch", "1", "--json")
    (found,) = json.loads(out)
    (row,) = normlib.which_norm("llm", 1, training=False)
    assert status == 0
    assert list(found) == list(row._fields)
    assert found["evidence"] == which.PAGES + row.evidence
    assert found["batch"] == [1, None]
    assert {name: found[name] for name in ("norm", "why", "training")} == {
        "norm": row.norm, "why": row.why, "training": False
    }  # fmt: skip


def test_alone_it_lists_the_architectures(capsys):
    status, out, _ = printed(capsys)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(which.architectures())
    assert re.search(r"^rnn +lstm, gru$", out, re.MULTILINE)
    _, out, _ = printed(capsys, "--json")
    assert json.loads(out)["rnn"] == ["lstm", "gru"]


@pytest.mark.parametrize(
    ("args", "words"), [(("--arch", "fly"), "arch is 'fly'"), (("--arch", "cnn", "--batch", "0"), "batch is 0")]
)
def test_what_is_not_known_is_one_line_and_status_2(capsys, args, words):
    status, out, err = printed(capsys, *args, "--json")
    assert (status, out) == (2, "")
    assert err.startswith(f"normlib which-norm: {words}, expected ")
    assert err.count("\n") == 1


# -- the pages ----


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def commands():
    """The commands of the parser, by name."""
    (found,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


@pytest.mark.parametrize("page", ["which.md", "checklist.md"])
def test_the_pages_run(page):
    failed, tried = doctest.testfile(str(DOCS / page), module_relative=False)
    assert tried > 3
    assert failed == 0


def test_the_page_has_the_table_as_it_is():
    text = (DOCS / "which.md").read_text(encoding="utf-8")
    rows = text.partition("<!-- rows -->\n")[2].partition("<!-- end of rows -->")[0].splitlines()[2:]
    assert [row.split("|")[1:3] for row in rows] == [[f" {r.architecture} ", f" {r.when} "] for r in which.rows()]


def test_the_page_shows_what_the_command_prints(capsys):
    shown = re.search(r"```\n\$ normlib (.*)\n([\s\S]*?)```", (DOCS / "which.md").read_text(encoding="utf-8"))
    assert cli.main(shown[1].split()) == 0
    assert capsys.readouterr().out == shown[2]


def test_the_commands_of_the_checklist_are_there():
    text = (DOCS / "checklist.md").read_text(encoding="utf-8")
    named = re.findall(r"`normlib ([\w-]+)(?: (\w+))?", text)
    assert len(named) > 20
    assert {command for command, _ in named} <= set(commands())
    assert {word for command, word in named if command == "demo"} <= set(cli.DEMOS)


def test_each_point_of_the_checklist_has_its_section_and_something_that_checks_it():
    text = (DOCS / "checklist.md").read_text(encoding="utf-8")
    points = re.findall(r"^\| \d+ \| \[(.*?)\]\(checklist\.md#(.*?)\) \| (.*) \|$", text, re.MULTILINE)
    assert [anchor for _, anchor, _ in points] == [
        name.lower().replace(" ", "-") for name in re.findall(r"^## (.*)$", text, re.MULTILINE)
    ]
    for point, _, check in points:
        assert check.startswith("`normlib "), point
