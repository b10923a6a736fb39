"""List what a run of the suite skipped and why; exit 1 if more was skipped than .ci/skips.txt records for it.

python .ci/skipped.py ENVIRONMENT JUNIT_XML
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

RECORD = Path(__file__).with_name("skips.txt")


def main(environment: str, report: str) -> int:
    """Compare; the lines printed are those of the record."""
    reasons = Counter(map(reason, ElementTree.parse(report).iter("skipped")))
    print(*(f"{environment} {number} {why}" for why, number in sorted(reasons.items())), sep="\n")
    most = recorded(environment, RECORD.read_text(encoding="utf-8"))
    found = Counter()
    for why, number in reasons.items():
        found[next(filter(why.startswith, most), why)] += number
    more = {why: number for why, number in found.items() if number > most.get(why, 0)}
    for why, number in more.items():
        print(f"{environment}: {number} tests are skipped, {most.get(why, 0)} are recorded in {RECORD.name}: {why}")
    return int(bool(more))


def reason(skipped: ElementTree.Element) -> str:
    """Why a test was skipped, in one line; of a whole file pytest keeps (path, line, reason) as text."""
    said = skipped.get("message", "")
    if said == "collection skipped":
        said = ast.literal_eval(skipped.text or "")[2].removeprefix("Skipped: ")
    return " ".join(said.split())


def recorded(environment: str, text: str) -> dict[str, int]:
    """The most tests that may be skipped in an environment, by how the reason begins."""
    lines = [line.split(maxsplit=2) for line in text.splitlines() if line and not line.startswith("#")]
    return {why: int(number) for name, number, why in lines if name == environment}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
