"""Checks every dependency against deny.toml without cargo-deny.

Reads `cargo metadata` and applies three rules of deny.toml: the licence of each package from outside the workspace is
satisfied by `[licenses] allow` (or by an entry of `[[licenses.exceptions]]`), no package is named by `[[bans.deny]]`, and
every package comes from a registry, none from a repository or an address. Left out on purpose: security advisories (their database lies on a host
that a build machine may not reach) and duplicate versions.
"""

import json
import re
import subprocess
import sys
import tomllib


def satisfied(expression: str, allowed: set[str]) -> bool:
    """Whether the SPDX `expression` can be met with `allowed` licences alone.

    Grammar: `or := and ("OR" and)*`, `and := atom ("AND" atom)*`, `atom := "(" or ")" | id ["WITH" id]`. The old spelling
    "MIT/Apache-2.0" means OR.
    """
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek() -> str | None:
        return tokens[position] if position < len(tokens) else None

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def either() -> bool:
        result = both()
        while peek() == "OR":
            take()
            result = both() or result
        return result

    def both() -> bool:
        result = atom()
        while peek() == "AND":
            take()
            result = atom() and result
        return result

    def atom() -> bool:
        if peek() == "(":
            take()
            result = either()
            take()
            return result
        name = take()
        if peek() == "WITH":
            take()
            name = f"{name} WITH {take()}"
        return name in allowed

    return either()


def main() -> int:
    with open("deny.toml", "rb") as file:
        deny = tomllib.load(file)
    licences = deny["licenses"]
    allowed = set(licences["allow"])
    exceptions = {entry.get("crate", entry.get("name")): set(entry["allow"]) for entry in licences.get("exceptions", [])}
    banned = {entry.get("crate", entry.get("name")) for entry in deny.get("bans", {}).get("deny", [])}

    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    problems = []
    outside = [package for package in packages if package["source"] is not None]
    for package in outside:
        name = f"{package['name']} {package['version']}"
        licence = package["license"]
        if licence is None:
            problems.append(f"{name}: names no licence")
        elif not satisfied(licence, allowed | exceptions.get(package["name"], set())):
            problems.append(f"{name}: licence {licence} is not allowed by deny.toml")
        if package["name"] in banned:
            problems.append(f"{name}: banned by deny.toml")
        if not package["source"].startswith("registry+"):
            problems.append(f"{name}: comes from {package['source']}, not from the registry")
    for problem in problems:
        print(problem)
    print(f"{len(outside)} dependencies checked, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
