#!/usr/bin/env python3
"""Shows that the tests of docs/acceptance.md notice when a feature is missing.

    scripts/mutations.py                tries all of them, prints red or green for each
    scripts/mutations.py 57 139         only those of these rows
    scripts/mutations.py --write        and puts what came of it into the table of docs/acceptance.md

Each entry switches one feature off by a small change of the source. All changes are made at once, in a copy of the tree
(target/mutations, which has a target folder of its own: cargo would mix up the two trees in one), each behind a question for the
environment variable BERRY_OFF, so that everything is built once. Then the one test that a row names is run twice: with nothing switched
off, when it must pass, and with its row's number, when it must fail.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutations"
PAGE = ROOT / "docs" / "acceptance.md"
#: A test that takes longer counts as red.
TEST_SECONDS_MAX = 90
BEGIN, END = "<!-- Written by scripts/mutations.py --write -->", "<!-- End of the mutations. -->"


@dataclass
class Mutation:
    row: int
    off: str  # what is switched off
    file: str
    old: str
    new: str  # `OFF` stands for the question whether this one is asked for


MUTATIONS = [
    Mutation(20, "time decay of confidence", "berry-loadbalance/src/confidence.rs", "if settings.time_decay {", "if settings.time_decay || OFF {"),
    Mutation(24, "masking of keys", "berry-api/src/routes/admin/config.rs", "if !runtime.snapshot.settings.mask_api_keys {", "if OFF || !runtime.snapshot.settings.mask_api_keys {"),
    Mutation(27, "patterns in allowed_models", "berry-core/src/policy.rs", "glob(self.0.as_bytes(), name.as_bytes())", "if OFF { &*self.0 == name } else { glob(self.0.as_bytes(), name.as_bytes()) }"),
    Mutation(33, "timeout_seconds of a provider", "berry-core/src/config/compile/providers.rs", "finer.or(timeout).or(shared)", "finer.or(if OFF { None } else { timeout }).or(shared)"),
    Mutation(47, "the provider's own name of the model", "berry-relay/src/envelope.rs", "if self.model != upstream_model && !self.model_values", "if !OFF && self.model != upstream_model && !self.model_values"),
    Mutation(55, "the fence of tags", "berry-core/src/policy.rs", "user_tags.is_empty()\n        ||", "OFF || user_tags.is_empty()\n        ||"),
    Mutation(56, "reload when the file changes", "berry-api/src/reload/watch.rs", "in_background(&app, &path, Cause::File).await;", "if !OFF { in_background(&app, &path, Cause::File).await; }"),
    Mutation(57, "state carried over a reload", "berry-loadbalance/src/reconcile.rs", "match known.get(&backend.id) {", "match known.get(&backend.id).filter(|_| !OFF) {"),
    Mutation(66, "limits of users", "berry-api/src/quotas.rs", "let limits = user.limits.as_deref()?;", "let limits = user.limits.as_deref().filter(|_| !OFF)?;"),
    Mutation(68, "refusal of disabled users", "berry-api/src/auth/mod.rs", "return Err(denied(Denial::Disabled));", "if !OFF { return Err(denied(Denial::Disabled)); }"),
    Mutation(70, "lists of models by user", "berry-api/src/routes/models.rs", "user.models.allows(&model.id, &model.name, &model.aliases)\n}", "OFF || user.models.allows(&model.id, &model.name, &model.aliases)\n}"),
    Mutation(71, "audit of failed authentication", "berry-api/src/gate.rs", "if verdict != Verdict::Limited {", "if verdict != Verdict::Limited && !OFF {"),
    Mutation(98, "the turns of round_robin", "berry-loadbalance/src/picker/round_robin.rs", "candidates.iter().find(behind).map_or(", "candidates.iter().find(behind).filter(|_| !OFF).map_or("),
    Mutation(112, "premium as the backup", "berry-loadbalance/src/picker/smart_ai.rs", "(true, true) => 1,", "(true, true) => u8::from(!OFF),"),
    Mutation(119, "no probes of per_request backends", "berry-loadbalance/src/endpoint.rs", "&& backend.billing == BillingMode::PerToken", "&& (OFF || backend.billing == BillingMode::PerToken)"),
    Mutation(124, "recovery by successes of users", "berry-loadbalance/src/breaker.rs", "Phase::Recovering { successes: successes + 1 }", "Phase::Recovering { successes: successes + u16::from(!OFF) }"),
    Mutation(127, "opening of circuits", "berry-loadbalance/src/breaker.rs", "u32::from(failures) + 1 >= settings.failure_threshold.min(Self::COUNT_MAX)", "!OFF && u32::from(failures) + 1 >= settings.failure_threshold.min(Self::COUNT_MAX)"),
    Mutation(130, "retries at other backends", "berry-api/src/app.rs", "max_retries: snapshot.settings.max_retries,", "max_retries: if OFF { 0 } else { snapshot.settings.max_retries },"),
    Mutation(132, "keep-alive comments", "berry-api/src/app.rs", "keep_alive: snapshot.server.keep_alive,", "keep_alive: if OFF { Duration::from_secs(86_400) } else { snapshot.server.keep_alive },"),
    Mutation(139, "discovery of models", "berry-api/src/discovery.rs", "() = ask_for_ever(&app) => {}", "() = ask_for_ever(&app), if !OFF => {}"),
    Mutation(140, "the count of requests", "berry-api/src/telemetry/prometheus/mod.rs", "series.statuses[status].fetch_add(1, Ordering::Relaxed);", "series.statuses[status].fetch_add(u64::from(!OFF), Ordering::Relaxed);"),
    Mutation(153, "the alias berry_api_api in RUST_LOG", "berry-api/src/telemetry/mod.rs", '"berry_api_api", "berry_api"', 'if OFF { "-" } else { "berry_api_api" }, "berry_api"'),
    Mutation(157, "rotation of the log file", "berry-api/src/telemetry/rotate.rs", "_ => fs::rename(&self.path, self.aside(1)),", "_ if OFF => Ok(()),\n            _ => fs::rename(&self.path, self.aside(1)),"),
    Mutation(161, "generate-config --advanced", "berry-cli/src/generate.rs", "if arguments.advanced {", "if arguments.advanced && !OFF {"),
    Mutation(170, "the limit of connections", "berry-api/src/server/mod.rs", "Semaphore::new(server.options.max_connections.min(Semaphore::MAX_PERMITS))", "Semaphore::new(if OFF { Semaphore::MAX_PERMITS } else { server.options.max_connections.min(Semaphore::MAX_PERMITS) })"),
    Mutation(193, "forced backends", "berry-relay/src/forward.rs", "provider: request.provider.as_deref(),", "provider: request.provider.as_deref().filter(|_| !OFF),"),
]


def test_of(row: int) -> tuple[str, str]:
    """File and name of the test that a row names."""
    line = re.search(rf"^\| {row} \|.*$", PAGE.read_text(), re.M)
    found = line and re.search(r"`([\w./-]+\.rs)::(\w+)`", line[0].rsplit("|", 2)[1])
    if not found:
        raise SystemExit(f"row {row} of {PAGE.name} names no test in Rust")
    return found[1], found[2]


def target_of(file: str) -> tuple[str, str, str]:
    """Crate, kind and name of the test program that a file belongs to."""
    crate, place, *rest = file.split("/")
    if place == "tests":
        return crate, "test", rest[0].removesuffix(".rs")
    return (crate, "bin", crate) if crate == "berry-cli" else (crate, "lib", crate.replace("-", "_"))


def built(targets: set[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """The test programs of the targets, built from the copy in one go."""
    kinds = {("--lib",) if kind == "lib" else (f"--{kind}", name) for _, kind, name in targets}
    command = ["cargo", "test", "--locked", "--no-run", "--message-format", "json-render-diagnostics"]
    command += [argument for crate in sorted({crate for crate, _, _ in targets}) for argument in ("-p", crate)]
    command += [argument for kind in sorted(kinds) for argument in kind]
    variables = {**os.environ, "CARGO_TARGET_DIR": str(COPY / "target")}
    done = subprocess.run(command, cwd=COPY, env=variables, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: a change does not compile")
    programs = {}
    for artifact in (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")):
        if artifact.get("executable") and artifact["profile"]["test"]:
            crate = pathlib.Path(artifact["manifest_path"]).parent.name
            programs[crate, artifact["target"]["kind"][0], artifact["target"]["name"]] = artifact["executable"]
    return programs


def passes(program: str, crate: str, name: str, off: int | None) -> bool:
    try:
        done = subprocess.run(
            [program, name], cwd=COPY / crate, env={**os.environ, "BERRY_OFF": str(off)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TEST_SECONDS_MAX,
        )
    except subprocess.TimeoutExpired:
        # It waits for what does not happen.
        return False
    if not re.search(r"^running [1-9]", done.stdout, re.M):
        raise SystemExit(f"{program} has no test {name}")
    return done.returncode == 0


def fresh_copy() -> None:
    COPY.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for name in filter(None, files.split("\0")):
        old, new = COPY / name, (ROOT / name).read_bytes() if (ROOT / name).is_file() else None
        # What is the same keeps its time, so that it is not compiled again.
        if new is not None and not (old.is_file() and old.read_bytes() == new):
            old.parent.mkdir(parents=True, exist_ok=True)
            old.write_bytes(new)


def main() -> int:
    chosen = {int(argument) for argument in sys.argv[1:] if argument.isdigit()}
    mutations = [mutation for mutation in MUTATIONS if not chosen or mutation.row in chosen]
    fresh_copy()
    originals = {file: (COPY / file).read_text() for file in {mutation.file for mutation in mutations}}
    changed = dict(originals)
    for mutation in mutations:
        count = originals[mutation.file].count(mutation.old)
        if count != 1:
            raise SystemExit(f"row {mutation.row}: {mutation.old!r} is {count} times in {mutation.file}")
        asked = f'(std::env::var("BERRY_OFF").as_deref() == Ok("{mutation.row}"))'
        new = re.sub(r"\bOFF\b", lambda _: asked, mutation.new)
        changed[mutation.file] = changed[mutation.file].replace(mutation.old, new)
    for file, text in changed.items():
        (COPY / file).write_text(text)
    tests = {mutation.row: test_of(mutation.row) for mutation in mutations}
    programs = built({target_of(file) for file, _ in tests.values()})
    rows, unnoticed = {}, 0
    for mutation in mutations:
        file, name = tests[mutation.row]
        program, crate = programs[target_of(file)], file.split("/")[0]
        if not passes(program, crate, name, None):
            raise SystemExit(f"{file}::{name} fails with nothing switched off")
        green = passes(program, crate, name, mutation.row)
        unnoticed += green
        verdict = "green, so it proves nothing" if green else "red"
        print(f"row {mutation.row:3}  {verdict} without {mutation.off}: {name}", flush=True)
        rows[mutation.row] = f"| {mutation.row} | {mutation.off} | `{mutation.file}` | `{name}` | {verdict} |"
    print(f"{len(mutations) - unnoticed} of {len(mutations)} tests turn red")
    if "--write" in sys.argv:
        write(rows)
    return bool(unnoticed)


def write(rows: dict[int, str]) -> None:
    """Puts lines into the table; those of other rows stay."""
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    known = {mutation.row for mutation in MUTATIONS}
    before = {int(line.split("|")[1]): line for line in text[start:end].splitlines() if re.match(r"\| \d", line)}
    lines = [line for row, line in sorted((before | rows).items()) if row in known]
    table = ["| Row | Switched off | In | Test | It turns |", "|---|---|---|---|---|", *lines]
    PAGE.write_text(text[:start] + "\n" + "\n".join(table) + "\n" + text[end:])


if __name__ == "__main__":
    sys.exit(main())
