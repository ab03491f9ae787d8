#!/usr/bin/env python3
"""Counts docs/acceptance.md and sees that every test it names is there.

    scripts/acceptance.py            counts, and says what is wrong
    scripts/acceptance.py --write    puts the count into the page

A row is shown when it names a test (`path::name`) or a command; "not yet" and "not shown here" are counted apart. The tests
themselves run with the rest of the suite.
"""

import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "acceptance.md"
#: Names tests as well, without counting.
CHECKLIST = ROOT / "docs" / "dialects-checklist.md"
#: Rows that one test may serve.
ROWS_MAX = 5


def main() -> int:
    text = PAGE.read_text()
    # The table of scripts/mutations.py below has rows of its own.
    features = text.split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", features, re.M)
    wrong, served = [], collections.Counter()
    counts = collections.Counter()
    for number, shown_by in rows:
        if shown_by.startswith("not yet"):
            counts["not yet"] += 1
            continue
        if shown_by.startswith("not shown here"):
            counts["not shown here"] += 1
            continue
        counts["shown"] += 1
        for path, name in re.findall(r"`([\w./-]+\.\w+)::(\w+)`", shown_by):
            served[f"{path}::{name}"] += 1
            file = ROOT / path
            if not file.is_file():
                wrong.append(f"row {number}: there is no file {path}")
            elif not re.search(rf"\b(fn|def) {name}\b", file.read_text()):
                wrong.append(f"row {number}: {path} has no test {name}")
        if "`" not in shown_by:
            wrong.append(f"row {number}: names neither a test nor a command")
    for path, name in re.findall(r"`([\w./-]+\.\w+)::(\w+)`", CHECKLIST.read_text()):
        file = ROOT / path
        if not file.is_file() or not re.search(rf"\b(fn|def) {name}\b", file.read_text()):
            wrong.append(f"{CHECKLIST.name}: there is no test {path}::{name}")
    for test, count in served.items():
        if count > ROWS_MAX:
            wrong.append(f"{test} serves {count} rows, more than {ROWS_MAX}")
    line = f"**{counts['shown']} of {len(rows)} shown**, {counts['not shown here']} not shown here, {counts['not yet']} not yet."
    if "--write" in sys.argv:
        PAGE.write_text(re.sub(r"^\*\*\d+ of \d+ shown.*$", line, text, count=1, flags=re.M))
    elif line not in text:
        wrong.append(f"the page's count is stale; it is: {line}")
    print(line.replace("*", ""))
    for problem in wrong:
        print(problem, file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
