#!/usr/bin/env python3
"""Counts docs/acceptance.md: what the page says, and what a run of the tests shows.

    scripts/acceptance.py            counts what the page says, and says what is wrong with it
    scripts/acceptance.py --write    puts that count into the page
    scripts/acceptance.py --results  counts the rows that the last run of scripts/check.sh showed
    scripts/acceptance.py --run      runs the steps of scripts/check.sh that rows need, then does the same

The last column of a row names tests (`path::name`) and steps (`scripts/check.sh NAME`), all of which must pass. Nothing is run a
row at a time: `scripts/check.sh` keeps in target/check what cargo printed, pytest's report and how each step ended, and the rows are
looked up there. "not shown here" and "not yet" are counted apart, as is a row whose test or step was left out for want of something
that this machine lacks. A row that was promised and did not pass makes the exit status 1.
"""

import collections
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "acceptance.md"
#: Names tests as well, without counting.
CHECKLIST = ROOT / "docs" / "dialects-checklist.md"
#: Where scripts/check.sh leaves what it saw.
SEEN = ROOT / "target" / "check"
#: Rows that one test may serve.
ROWS_MAX = 5
#: Status of a step that could not be tried; as in scripts/check.sh.
NOT_RUN = 77
TEST = re.compile(r"`([\w./-]+\.\w+)::(\w+)`")
STEPS = re.compile(r"`scripts/check\.sh ([\w ]+)`")
PASSED, FAILED, ABSENT, LEFT_OUT = "passed", "failed", "was not run", "left out"


@dataclass
class Row:
    number: int
    shown_by: str
    tests: list[tuple[str, str]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    @property
    def promise(self) -> str:
        for words in ("not yet", "not shown here"):
            if self.shown_by.startswith(words):
                return words
        return "shown"


def rows_of(text: str) -> list[Row]:
    # The table of scripts/mutations.py below has rows of its own.
    features = text.split("\n## ")[0]
    rows = [Row(int(number), cell) for number, cell in re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", features, re.M)]
    for row in rows:
        if row.promise == "shown":
            row.tests = TEST.findall(row.shown_by)
            row.steps = [name for names in STEPS.findall(row.shown_by) for name in names.split()]
    return rows


def problems(rows: list[Row]) -> list[str]:
    """What is wrong with the page itself."""
    steps = re.findall(r"^step_(\w+)\(\)", (ROOT / "scripts" / "check.sh").read_text(), re.M)
    wrong, served = [], collections.Counter(test for row in rows for test in row.tests)
    for row in rows:
        if row.promise == "shown" and not (row.tests or row.steps):
            wrong.append(f"row {row.number}: names neither a test nor a step of scripts/check.sh")
        wrong += [f"row {row.number}: scripts/check.sh has no step {name}" for name in row.steps if name not in steps]
        wrong += [f"row {row.number}: there is no test {path}::{name}" for path, name in row.tests if not exists(path, name)]
    for path, name in TEST.findall(CHECKLIST.read_text()):
        if not exists(path, name):
            wrong.append(f"{CHECKLIST.name}: there is no test {path}::{name}")
    for (path, name), count in served.items():
        if count > ROWS_MAX:
            wrong.append(f"{path}::{name} serves {count} rows, more than {ROWS_MAX}")
    return wrong


def exists(path: str, name: str) -> bool:
    file = ROOT / path
    return file.is_file() and re.search(rf"\b(fn|def) {name}\b", file.read_text()) is not None


class Results:
    """What the last run of scripts/check.sh saw."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.cargo = self._cargo(self._kept("test.log"))
        self.pytest = collections.defaultdict(list)
        for name in ("e2e-shared.xml", "e2e-alone.xml"):
            self._pytest(self._kept(name))

    def _kept(self, name: str) -> str:
        file = SEEN / name
        if not file.is_file():
            self.missing.append(f"{file.relative_to(ROOT)} is missing: run scripts/check.sh {re.split('[-.]', name)[0]} first")
            return ""
        return file.read_text(errors="replace")

    @staticmethod
    def _cargo(log: str) -> dict[str, list[tuple[str, bool]]]:
        """Paths of tests and whether they passed, by test program: the name of the crate for unit tests, else the file."""
        programs = collections.defaultdict(list)
        program = ""
        for line in log.splitlines():
            if started := re.search(r"\bRunning (unittests )?(\S+) \(\S*?deps[/\\](\w+)-[0-9a-f]+", line):
                program = started[3].replace("_", "-") if started[1] else started[2]
            # Other threads may have written something in front of it.
            elif ended := re.search(r"\btest ([\w:]+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)\b", line):
                programs[program].append((ended[1], ended[2] == "ok"))
        return programs

    def _pytest(self, report: str) -> None:
        """Adds the ends of all cases of each test, by file and name."""
        for case in xml.etree.ElementTree.fromstring(report or "<none/>").iter("testcase"):
            tags = {child.tag for child in case}
            end = FAILED if tags & {"failure", "error"} else LEFT_OUT if "skipped" in tags else PASSED
            file = "e2e/" + case.get("classname", "").split(".")[-1] + ".py"
            self.pytest[file, case.get("name", "").split("[")[0]].append(end)

    def test(self, path: str, name: str) -> str:
        if path.endswith(".py"):
            return worst(self.pytest.get((path, name), []))
        crate, place, *rest = path.removesuffix(".rs").split("/")
        modules = [part for part in rest if part not in ("mod", "lib", "main")]
        if place == "tests":
            # A file beside `main.rs` or below a file of its folder's name is a module of that program.
            programs = [f"tests/{rest[0]}.rs", f"tests/{rest[0]}/main.rs"]
            modules = modules[1:]
        else:
            programs = [crate]
        found = [
            PASSED if passed else FAILED
            for program in programs
            for test, passed in self.cargo.get(program, [])
            if test.split("::")[-1] == name and test.split("::")[: len(modules)] == modules
        ]
        return worst(found)

    def step(self, name: str) -> str:
        file = SEEN / f"{name}.status"
        if not file.is_file():
            return ABSENT
        status = int(file.read_text())
        return PASSED if status == 0 else LEFT_OUT if status == NOT_RUN else FAILED


def worst(ends: list[str]) -> str:
    return next((end for end in (FAILED, LEFT_OUT, PASSED) if end in ends), ABSENT)


def tally(rows: list[Row]) -> bool:
    """Prints how many rows the last run showed; whether all that were promised and could be tried passed."""
    results = Results()
    shown, apart, failed = [], [], []
    for row in rows:
        if row.promise != "shown":
            apart.append(f"row {row.number}: {row.shown_by}")
            continue
        ends = {f"{path}::{name}": results.test(path, name) for path, name in row.tests}
        ends |= {f"scripts/check.sh {name}": results.step(name) for name in row.steps}
        bad = [f"row {row.number}: {what} {end}" for what, end in ends.items() if end in (FAILED, ABSENT)]
        out = [f"row {row.number}: {what} {end}" for what, end in ends.items() if end == LEFT_OUT]
        if bad:
            failed += bad
        elif out:
            apart += out
        else:
            shown.append(row)
    for title, lines in (("not shown here", apart), ("promised, and not shown by this run", failed), ("cannot count", results.missing)):
        if lines:
            print(f"{title}:", *lines, sep="\n  ")
    print(f"{len(shown)} of {len(rows)}")
    return not failed and not results.missing


def run(rows: list[Row]) -> None:
    """Every step that a row needs, and of the end-to-end tests those that a row names."""
    steps = {name for row in rows for name in row.steps} | {"test", "build"}
    python = {name for row in rows for path, name in row.tests if path.endswith(".py")}
    check = str(ROOT / "scripts" / "check.sh")
    listed = subprocess.run([check, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    # Nothing of an earlier run may count.
    shutil.rmtree(SEEN, ignore_errors=True)
    # A step that fails is seen in what it leaves.
    subprocess.run([check, *(name for name in listed if name in steps - {"e2e"})])
    subprocess.run([check, "e2e", "--", "-k", " or ".join(sorted(python))])


def main() -> int:
    text = PAGE.read_text()
    rows = rows_of(text)
    wrong = problems(rows)
    counts = collections.Counter(row.promise for row in rows)
    line = f"**{counts['shown']} of {len(rows)} shown**, {counts['not shown here']} not shown here, {counts['not yet']} not yet."
    if "--write" in sys.argv:
        PAGE.write_text(re.sub(r"^\*\*\d+ of \d+ shown.*$", line, text, count=1, flags=re.M))
    elif line not in text:
        wrong.append(f"the page's count is stale; it is: {line}")
    for problem in wrong:
        print(problem, file=sys.stderr)
    if "--run" in sys.argv:
        run(rows)
    if "--run" in sys.argv or "--results" in sys.argv:
        return not tally(rows) or bool(wrong)
    print(line.replace("*", ""))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
