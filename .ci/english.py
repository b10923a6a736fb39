"""Count turns of phrase that are hard to read: ``python .ci/english.py [--show] [PATH ...]``; status 1 above a bound.

Counts are per 10,000 words of docstrings, comments, messages (texts of four words or more) and pages; docstrings in percent.
gpulime/, benchmarks/, kernels/, tests/ and the pages must each keep the bounds.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = ["gpulime", "benchmarks", "tests", "kernels", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PATTERNS = {
    "what is": re.compile(r"\bwhat (?:is|has|they)\b", re.IGNORECASE),
    "Where": re.compile(r"\bWhere\b|[;:] where\b"),
    "whoever": re.compile(r"\b(?:who|what)ever\b", re.IGNORECASE),
    "docstring": re.compile(r"(?:What|Whether|How|Where|Which|Who)\b"),
}
MOST = {"what is": 5.0, "Where": 8.0, "whoever": 1.0, "docstring": 1.0}  # per 10,000 words; of docstrings, in percent
CODE = re.compile(r"^```.*?^```|^    .*?$|<!-- (\w+) -->.*?<!-- /\1 -->", re.MULTILINE | re.DOTALL)

Text = tuple[int, str, str]  # line, kind, text


def of_python(source: str) -> Iterator[Text]:
    """Docstrings, messages and comments of a module."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    docstrings = {id(one.value) for one in first if isinstance(one, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in docstrings:
                yield node.lineno, "docstring", node.value
            elif len(node.value.split()) >= 4:
                yield node.lineno, "message", node.value
    comments = (token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT)
    for token in comments:
        yield token.start[0], "comment", token.string.lstrip("# ")


def of_lines(source: str) -> Iterator[Text]:
    """Comments of CUDA."""
    lines = enumerate(source.splitlines(), 1)
    yield from ((number, "comment", line.partition("//")[2]) for number, line in lines if "//" in line)


def of_page(source: str) -> Iterator[Text]:
    """Lines of Markdown without code and without generated tables."""
    prose = CODE.sub(lambda code: "\n" * code[0].count("\n"), source)
    yield from ((number, "page", line) for number, line in enumerate(prose.splitlines(), 1))


READERS = {".py": of_python, ".md": of_page, ".cu": of_lines, ".cuh": of_lines}


def texts(place: Path) -> Iterator[tuple[Path, Text]]:
    """The prose of a file, or of all files below a folder."""
    for path in sorted(place.rglob("*.*")) if place.is_dir() else [place]:
        if read := READERS.get(path.suffix):
            yield from ((path, text) for text in read(path.read_text(encoding="utf-8")))


def rooms_of(path: Path) -> Iterator[str]:
    """The part of the project that a file counts for, and its room in gpulime/."""
    first, *rest = path.relative_to(ROOT).parts
    yield first if first in ("gpulime", "benchmarks", "tests", "kernels") else "docs"
    if first == "gpulime" and len(rest) > 1:
        yield f"  {first}/{rest[0]}"


def found(kind: str, text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Matches in a text, each with the name of its pattern."""
    for name, pattern in PATTERNS.items():
        if name == "docstring":
            begins = pattern.match(text) if kind == "docstring" else None
            yield from [(name, begins)] if begins else []
        else:
            yield from ((name, one) for one in pattern.finditer(text))


def rates(counts: Counter[str]) -> dict[str, float]:
    """The counts of a room by its words and docstrings."""
    per_word = {name: 1e4 * counts[name] / max(1, counts["words"]) for name in PATTERNS}
    return {**per_word, "docstring": 100 * counts["docstring"] / max(1, counts["docstrings"])}


def count(places: Sequence[str], show: bool) -> dict[str, Counter[str]]:
    """Words, docstrings and matches by room."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for path, (line, kind, text) in (one for place in places for one in texts((ROOT / place).resolve())):
        matches = list(found(kind, text))
        for room in rooms_of(path):
            words = Counter(words=len(text.split()), docstrings=int(kind == "docstring"))
            rooms[room] += words + Counter(name for name, _ in matches)
        for _, one in matches:
            if show:
                at, rest = line + text.count("\n", 0, one.start()), " ".join(text[one.start() :].split())
                print(f"{path.relative_to(ROOT)}:{at}: {rest[:100]}")
    return rooms


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each part and room; 1 if a part is above a bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="print each finding with its file and line")
    parser.add_argument("paths", nargs="*", metavar="PATH", default=PLACES)
    given = parser.parse_args(argv)
    above = []
    rooms = count(given.paths, given.show)
    print(f"{'':24}{'words':>8}", *(f"{name:>11}" for name in PATTERNS))
    for room, counts in sorted(rooms.items(), key=lambda one: one[0].strip()):
        found_here = rates(counts)
        marks = {kind: "!" if found_here[kind] > MOST[kind] else " " for kind in MOST}
        above += [room] if "!" in marks.values() and not room.startswith(" ") else []
        print(f"{room:24}{counts['words']:>8}", *(f"{value:>10.1f}{marks[kind]}" for kind, value in found_here.items()))
    print("at most:".ljust(32), *(f"{most:>10.1f} " for most in MOST.values()))
    print(f"above a bound: {', '.join(above)}" if above else "within the bounds")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
