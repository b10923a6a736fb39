"""Tools of CI: the skips that each run of the suite may have, and counts of phrases."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / ".ci"
REPORT = """<testsuites><testsuite>
<testcase><skipped type="pytest.skip" message="needs&#10; a GPU">tests/a.py:3: needs a GPU</skipped></testcase>
<testcase><skipped type="pytest.skip" message="needs&#10; a GPU">tests/a.py:9: needs a GPU</skipped></testcase>
<testcase><skipped message="collection skipped">('tests/b.py', 19, "Skipped: could not import 'plots'")</skipped></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def compared(monkeypatch, tmp_path):
    """The exit status with a record for the environment "full"."""

    def compare(record):
        for name, text in (("skips.txt", record), ("report.xml", REPORT)):
            (tmp_path / name).write_text(text)
        main = runpy.run_path(str(FOLDER / "skipped.py"))["main"]
        monkeypatch.setitem(main.__globals__, "RECORD", tmp_path / "skips.txt")
        return main("full", str(tmp_path / "report.xml"))

    return compare


PLOTS = "full 1 could not import 'plots'\n"


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (f"full 2 needs a GPU\n{PLOTS}", 0),
        (f"# more may be skipped\n\nfull 3 needs a GPU\n{PLOTS}", 0),
        (f"full 1 needs a GPU\n{PLOTS}", 1),
        (f"fast 2 needs a GPU\n{PLOTS}", 1),
        ("full 2 needs\nfull 1 could not import\n", 0),
        ("full 2 needs a GPU\n", 1),
    ],
)
def test_more_skips_than_recorded_fail(record, status, compared, capsys):
    assert compared(record) == status
    said = capsys.readouterr().out
    assert said.startswith("full 1 could not import 'plots'\nfull 2 needs a GPU\n")
    assert ("are recorded in skips.txt" in said) == bool(status)


def test_the_tests_that_are_named_exist():
    named = re.findall(r"tests/[\w/.]+", (FOLDER / "run").read_text())
    assert len(named) > 10
    assert [name for name in named if not (FOLDER.parent / name).exists()] == []


def test_the_tree_of_contributing_names_every_module_and_no_other():
    text = (FOLDER.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.partition("    gpulime/\n")[2].partition("    kernels/")[0]
    named = {name for line in re.findall(r"^ {6}(\S.*)", tree, re.MULTILINE) for name in line.split("   ")[0].split()}
    there = {one.name + "/" * one.is_dir() for one in (FOLDER.parent / "gpulime").iterdir()}
    assert named == there - {"__pycache__/", "py.typed", "kernels/"}


def test_every_line_of_the_record_is_read_and_every_environment_runs():
    environments = {line.split()[0] for line in (FOLDER / "skips.txt").read_text().splitlines() if not line.startswith("#")}
    script = (FOLDER / "run").read_text()
    assert [name for name in environments if f"suite {name} " not in script] == []


def test_turns_of_phrase_are_counted_in_docstrings_comments_messages_and_pages_and_not_in_code(tmp_path, capsys):
    english = runpy.run_path(str(FOLDER / "english.py"))
    root = english["main"].__globals__["ROOT"] = tmp_path
    (root / "gpulime" / "cli").mkdir(parents=True)
    (root / "gpulime" / "cli" / "a.py").write_text(
        '"""Whether it runs."""\nwhat = is_ = 1  # what is here\nraise ValueError(f"{what}: whatever they were told")\n'
    )
    (root / "page.md").write_text("If so, good.\n\n    Where code: what is code\n\n```python\nWhere = 1\n```\n")
    assert english["main"](["--show", "gpulime", "page.md"]) == 1
    said = capsys.readouterr().out
    assert [line.split(": ")[0] for line in said.splitlines()[:3]] == [f"gpulime/cli/a.py:{line}" for line in (1, 3, 2)]
    assert said.endswith("above a bound: gpulime\n")
    assert english["main"](["page.md"]) == 0
