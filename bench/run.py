#!/usr/bin/env python3
"""Measures Berry against a direct connection, nginx and a bare hyper proxy; prints the table of docs/performance.md.

    bench/run.py                     build, measure everything, print the table
    bench/run.py --write             also put it between the markers in docs/performance.md
    bench/run.py --only counts       only what machine noise cannot change: instructions and system calls
    bench/run.py --targets floor,berry --rounds 3

What each figure means and how it is taken stands in docs/performance.md. Needs Linux, Python 3.9, and for the rows
that use them nginx, valgrind and strace (Debian: nginx-light, valgrind, strace). A missing one leaves its cells empty.
The raw numbers of all rounds go to target/bench-results.json.
"""

import argparse
import collections
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "target" / "dist"
DOC = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
TOKEN = "bench-token-0123456789abcdef"
LARGE = 100 * 1024
# Threads whose work is not on a request's path; their share is reported apart.
APART = re.compile("^berry-log$")
TARGETS = ["direct", "nginx", "floor", "berry"]
# Rounds of CPU at full load for each of the others: they are short.
SHORT_ROUNDS = 5

NGINX = """
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log {dir}/access.log combined;
    client_body_temp_path {dir}/body;
    client_body_buffer_size 256k;
    client_max_body_size 64m;
    keepalive_requests 10000000;
    keepalive_timeout 300s;
    tcp_nodelay on;
    upstream up {{ server 127.0.0.1:{upstream}; keepalive 2048; keepalive_requests 10000000; keepalive_timeout 300s; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://up;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""

BERRY = """
[server]
data_dir = "{dir}/data"

[ledger]
backend = "off"

[users.bench]
name = "bench"
token = "{token}"

[providers.upstream]
name = "upstream"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key = "bench-upstream-key"
models = ["upstream-model"]
backend_type = "openai"

[models.bench]
name = "bench-model"
strategy = "weighted_random"
[[models.bench.backends]]
provider = "upstream"
model = "upstream-model"
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended with code {process.returncode} before it served")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"{process.args[0]} does not listen on port {port}")


class Target:
    """One running process under test, stopped at the end of a `with` block."""

    environment = {"RUST_LOG": "info"}

    def __init__(self, name, upstream, under=(), one_worker=False):
        self.name, self.dir = name, tempfile.mkdtemp(prefix=f"bench-{name}-")
        self.port = upstream if name == "direct" else free_port()
        self.process = None
        if name != "direct":
            command = [*under, *self.command(upstream, one_worker)]
            output = open(f"{self.dir}/output.log", "wb")
            environment = {**os.environ, **self.environment}
            if one_worker:
                environment["TOKIO_WORKER_THREADS"] = "1"
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=self.dir)
            wait_for(self.port, self.process)

    def command(self, upstream, one_worker):
        bind = f"127.0.0.1:{self.port}"
        if self.name == "floor":
            return [str(BIN / "floor-proxy"), "--bind", bind, "--upstream", f"127.0.0.1:{upstream}"]
        text = NGINX if self.name == "nginx" else BERRY
        workers = 1 if one_worker else os.cpu_count()
        config = pathlib.Path(self.dir, "target.conf" if self.name == "nginx" else "target.toml")
        config.write_text(
            text.format(dir=self.dir, port=self.port, upstream=upstream, workers=workers, token=TOKEN)
        )
        config.chmod(0o600)
        if self.name == "berry":
            return [str(BIN / "berry-api"), "--config", str(config), "--bind", bind]
        master = "off" if one_worker else "on"
        return [shutil.which("nginx"), "-c", str(config), "-e", f"{self.dir}/error.log",
                "-g", f"daemon off; master_process {master}; user {os.environ.get('USER', 'root')};"]

    def pids(self):
        """The process and its children: nginx does its work in children."""
        if self.process is None:
            return []
        pids = [self.process.pid]
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            if parent == self.process.pid:
                pids.append(int(stat.parent.name))
        return pids

    def threads(self):
        """Thread names in order of creation, by thread id."""
        names = {}
        for pid in self.pids():
            for task in sorted(pathlib.Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
                names[int(task.name)] = (task / "comm").read_text().strip()
        return names

    def load(self, **options):
        """Runs bench-load against this target and returns its report."""
        command = [str(BIN / "bench-load"), "--target", f"127.0.0.1:{self.port}", "--token", TOKEN]
        for pid in self.pids():
            command += ["--pid", str(pid)]
        for key, value in options.items():
            command += ["--" + key.replace("_", "-"), str(value)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{self.name}: {' '.join(command)}\n{result.stdout}{result.stderr}")
        return json.loads(result.stdout)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


@contextlib.contextmanager
def upstream(**options):
    """The fixed upstream with options of bench-upstream, ended with the `with` block; its port."""
    port = free_port()
    command = [str(BIN / "bench-upstream"), "--bind", f"127.0.0.1:{port}"]
    for key, value in options.items():
        command += ["--" + key.replace("_", "-"), str(value)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield port
    finally:
        process.terminate()
        process.wait()


def on_path(report):
    """CPU microseconds of the threads on the request path, and of the others."""
    apart = sum(us for name, us in report["cpu_us_by_thread"].items() if APART.search(name))
    return report["cpu_us"] - apart, apart


def measure_cpu(target):
    """CPU of a plain request and of a long prompt at full load: short, so that many rounds take turns."""
    plain = target.load(connections=32, requests=10000, warmup=500)
    large = target.load(connections=8, requests=1500, warmup=50, prompt_bytes=LARGE)
    path, apart = on_path(plain)
    return {
        "cpu_plain": path / plain["requests"],
        "cpu_plain_log": apart / plain["requests"],
        "cpu_large": on_path(large)[0] / large["requests"],
    }


def measure_time(target, quick):
    """One round of everything else that depends on the clock."""
    scale = 0.2 if quick else 1
    figures = {}

    full = target.load(connections=32, requests=int(30000 * scale), warmup=2000)
    figures["throughput"] = full["requests_per_second"]

    calm = target.load(connections=16, requests=int(3000 * scale), warmup=200, rate=1000)
    figures["cpu_calm"] = on_path(calm)[0] / calm["requests"]
    figures["calm_p99"] = calm["latency_us"]["p99"]

    one = target.load(connections=1, requests=int(5000 * scale), warmup=200)
    figures["one_p50"], figures["one_p99"] = one["latency_us"]["p50"], one["latency_us"]["p99"]

    stream = target.load(connections=32, requests=32, warmup=32, chunks=int(1000 * scale), gap_ms=2)
    figures["cpu_chunk"] = on_path(stream)[0] / stream["chunks"]
    figures["chunk_p50"], figures["chunk_p99"] = stream["chunk_delay_us"]["p50"], stream["chunk_delay_us"]["p99"]
    return figures


def measure_memory(target):
    """RSS after one request, and what 1,000 open silent streams add. `target` is fresh."""
    # Idle is when what the start needed has gone back to the system.
    target.load(connections=1, requests=1)
    time.sleep(2)
    held = target.load(connections=1000, chunks=3, gap_ms=600000, hold_seconds=2)
    before, during = held["rss_kib_before"], held["rss_kib_during"]
    return {"rss_idle": before / 1024, "rss_stream": (during - before) / 1000}


# (name, load options for the smaller run, the same for the larger, how many more units the larger one has)
COUNTED = [
    ("plain", {"requests": 200}, {"requests": 1200}, 1000),
    ("large", {"requests": 100, "prompt_bytes": LARGE}, {"requests": 400, "prompt_bytes": LARGE}, 300),
    ("chunk", {"requests": 4, "chunks": 50, "gap_ms": 5}, {"requests": 4, "chunks": 300, "gap_ms": 5}, 1000),
]


def measure_instructions(name, upstream):
    """User instructions per unit: two runs under callgrind that differ only in the number of units."""
    figures = {}
    for kind, small, large, units in COUNTED:
        loads = (lambda target, run=run: target.load(connections=1, **run) for run in (small, large))
        (path_small, apart_small), (path, apart) = (instructions(name, upstream, load) for load in loads)
        figures[f"instructions_{kind}"] = (path - path_small) / units
        figures[f"instructions_{kind}_log"] = (apart - apart_small) / units
    return figures


def instructions(name, upstream, load, make=Target):
    """Instructions of a fresh process under callgrind while `load(target)` runs: on the path of requests, and of other threads."""
    with tempfile.TemporaryDirectory() as out:
        valgrind = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes",
                    f"--callgrind-out-file={out}/out"]
        with make(name, upstream, under=valgrind, one_worker=True) as target:
            load(target)
            names = list(target.threads().values())
        path = apart = 0
        for file in pathlib.Path(out).glob("out-*"):
            text = file.read_text()
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            thread = int(re.search(r"^thread: (\d+)", text, re.M)[1])
            log = thread <= len(names) and APART.search(names[thread - 1])
            if total and log:
                apart += int(total[1])
            elif total:
                path += int(total[1])
        return path, apart


def measure_calls(name, upstream):
    """System calls per unit at one connection, from attaching strace to the warm process for a counted load."""
    figures = {}
    with Target(name, upstream, one_worker=True) as target:
        target.load(connections=1, requests=20)
        target.load(connections=1, requests=2, chunks=5, gap_ms=1)
        few = calls(target, requests=4, chunks=10, gap_ms=5)
        many = calls(target, requests=4, chunks=260, gap_ms=5)
        many.subtract(few)
        for kind, counts, units in [
            ("plain", calls(target, requests=500), 500),
            ("large", calls(target, requests=100, prompt_bytes=LARGE), 100),
            ("chunk", many, 1000),
        ]:
            path = {call: n / units for (apart, call), n in counts.items() if not apart}
            figures[f"calls_{kind}"] = sum(path.values())
            figures[f"calls_{kind}_log"] = sum(n for (apart, _), n in counts.items() if apart) / units
            figures[f"calls_{kind}_detail"] = ", ".join(
                f"{call} {n:.2f}" for call, n in sorted(path.items(), key=lambda item: -item[1]) if n >= 0.005
            )
    return figures


def calls(target, **options):
    with tempfile.NamedTemporaryFile("r") as out:
        attach = [argument for pid in target.pids() for argument in ("-p", str(pid))]
        names = target.threads()
        strace = subprocess.Popen(["strace", "-f", "-qq", "-o", out.name, *attach], stderr=subprocess.DEVNULL)
        # Attached once every thread has a tracer.
        statuses = [pathlib.Path(f"/proc/{tid}/status") for tid in names]
        while strace.poll() is None and any("TracerPid:\t0" in status.read_text() for status in statuses):
            time.sleep(0.02)
        target.load(connections=1, **options)
        strace.send_signal(signal.SIGINT)
        strace.wait(30)
        counts = collections.Counter()
        for line in out:
            call = re.match(r"(\d+) +([a-z_0-9]+)\(", line)
            if call:
                counts[bool(APART.search(names.get(int(call[1]), ""))), call[2]] += 1
        return counts


def median(rounds, key):
    values = [figures[key] for figures in rounds if key in figures]
    return statistics.median(values) if values else None


def table(results):
    """The markdown table; `results[target]` is the list of that target's rounds."""
    targets = list(results)
    compared = "floor" in results and "berry" in results
    lines = [
        "| figure | " + " | ".join(targets) + (" | berry / floor |" if compared else " |"),
        "|---|" + "---:|" * (len(targets) + compared),
    ]
    for label, key, form, kind in ROWS:
        cells = [cell(results, target, key, form, kind) for target in targets]
        if not any(cells):
            continue
        if compared:
            cells.append(ratio(results, key) if kind is COST else "")
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines)


COST, ADDED, RATE = "cost of a proxy", "latency above direct", "rate"
ROWS = [
    ("CPU per plain request, saturated, µs", "cpu_plain", "{:.1f}", COST),
    ("CPU per plain request at 1,000/s, µs", "cpu_calm", "{:.1f}", COST),
    ("CPU per 100 KB prompt, µs", "cpu_large", "{:.1f}", COST),
    ("CPU per streamed chunk, µs", "cpu_chunk", "{:.2f}", COST),
    ("added latency, 1 connection, p50, µs", "one_p50", "{:+.0f}", ADDED),
    ("added latency, 1 connection, p99, µs", "one_p99", "{:+.0f}", ADDED),
    ("added latency at 1,000/s, p99, µs", "calm_p99", "{:+.0f}", ADDED),
    ("added delay of a chunk, p50, µs", "chunk_p50", "{:+.0f}", ADDED),
    ("added delay of a chunk, p99, µs", "chunk_p99", "{:+.0f}", ADDED),
    ("throughput, 32 connections, requests/s", "throughput", "{:,.0f}", RATE),
    ("idle RSS, MiB", "rss_idle", "{:.1f}", COST),
    ("memory per open stream, KiB", "rss_stream", "{:.1f}", COST),
    ("user instructions per plain request", "instructions_plain", "{:,.0f}", COST),
    ("user instructions per 100 KB prompt", "instructions_large", "{:,.0f}", COST),
    ("user instructions per streamed chunk", "instructions_chunk", "{:,.0f}", COST),
    ("system calls per plain request", "calls_plain", "{:.2f}", COST),
    ("system calls per 100 KB prompt", "calls_large", "{:.2f}", COST),
    ("system calls per streamed chunk", "calls_chunk", "{:.2f}", COST),
]


def cell(results, target, key, form, kind):
    value = median(results[target], key)
    if value is None or (kind is COST and target == "direct"):
        return ""
    if kind is ADDED:
        if target == "direct":
            return f"({value:.0f})"
        base = median(results.get("direct", []), key)
        return form.format(value - base) if base is not None else f"({value:.0f})"
    text, log = form.format(value), median(results[target], key + "_log")
    return f"{text} (+ {form.format(log)} log)" if log and float(form.format(log).replace(",", "")) else text


def ratio(results, key):
    """The middle of the rounds' ratios: what disturbs the machine for longer than a round disturbs both."""
    berry, floor = ([figures[key] for figures in results[name] if key in figures] for name in ("berry", "floor"))
    ratios = [ours / theirs for ours, theirs in zip(berry, floor) if theirs]
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def details(results):
    """Which system calls they are, for the targets that were traced."""
    lines = []
    for kind, label in (("plain", "plain request"), ("large", "100 KB prompt"), ("chunk", "streamed chunk")):
        for target, rounds in results.items():
            for figures in rounds:
                if f"calls_{kind}_detail" in figures:
                    lines.append(f"- {label}, {target}: {figures[f'calls_{kind}_detail']}")
    return "System calls by name:\n\n" + "\n".join(lines) if lines else ""


def provenance(args):
    commit = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    model = re.search(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (f"{when}, commit {commit.stdout.strip()}, {os.cpu_count()} cores ({model[1] if model else 'unknown CPU'}), "
            f"Linux {'.'.join(platform.release().split('.')[:2])}, median of {args.rounds} rounds (CPU at full load: {args.rounds * SHORT_ROUNDS}), load average at the end {load}.")


def write_document(text):
    document = DOC.read_text()
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    DOC.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def build(targets):
    packages = ["-p", "berry-bench"] + (["-p", "berry-api"] if "berry" in targets else [])
    subprocess.run(["cargo", "build", "--profile", "dist", *packages], cwd=ROOT, check=True)


def prepare(parser, parts):
    """Adds the options of a program that measures the gateway alone, reads them all, and builds; `parts` are what --only takes."""
    global BIN
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--binaries", type=pathlib.Path, default=BIN)
    options = parser.parse_args()
    if not options.no_build:
        build(["berry"])
    BIN = options.binaries.resolve()
    return options


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--targets", default=",".join(TARGETS), help="of " + ", ".join(TARGETS))
    parser.add_argument("--only", choices=["time", "memory", "counts"], help="one group of figures")
    parser.add_argument("--quick", action="store_true", help="a fifth of the load: noisy, for trying things out")
    parser.add_argument("--no-build", action="store_true", help="measure the binaries that are there")
    parser.add_argument("--write", action="store_true", help="put the result into docs/performance.md")
    return parser.parse_args()


def usable(name):
    if name == "nginx":
        return shutil.which("nginx") is not None
    return name != "berry" or (BIN / "berry-api").exists()


def measure(args, targets, upstream):
    results = {name: [] for name in targets}
    proxies = [name for name in targets if name != "direct"]
    note = lambda text: print(text, file=sys.stderr, flush=True)
    if args.only in (None, "memory"):
        for name in proxies:
            note(f"memory: {name}")
            with Target(name, upstream) as target:
                results[name].append(measure_memory(target))
    if args.only in (None, "counts"):
        for name in proxies:
            note(f"instructions and system calls: {name}")
            figures = measure_instructions(name, upstream) if shutil.which("valgrind") else {}
            figures |= measure_calls(name, upstream) if shutil.which("strace") else {}
            results[name].append(figures)
    if args.only in (None, "time"):
        with contextlib.ExitStack() as stack:
            running = [stack.enter_context(Target(name, upstream)) for name in targets]
            note("CPU at full load")
            for number in range(args.rounds * SHORT_ROUNDS):
                for target in in_turn(running, number):
                    results[target.name].append(measure_cpu(target))
            for number in range(args.rounds):
                for target in in_turn(running, number):
                    note(f"time, round {number + 1} of {args.rounds}: {target.name}")
                    results[target.name].append(measure_time(target, args.quick))
    return results


def in_turn(targets, number):
    """The targets of a round. Another one goes first in each, so that none is always measured after the same one."""
    shift = number % len(targets)
    return targets[shift:] + targets[:shift]


def main():
    args = parse()
    targets = args.targets.split(",")
    if not args.no_build:
        build(targets)
    for name in [name for name in targets if not usable(name)]:
        print(f"{name} is not here, left out", file=sys.stderr)
        targets.remove(name)
    with upstream() as port:
        results = measure(args, targets, port)
    (ROOT / "target" / "bench-results.json").write_text(json.dumps(results, indent=1))
    text = "\n\n".join(part for part in (provenance(args), table(results), details(results)) if part)
    print(text)
    if args.write:
        write_document(text)


if __name__ == "__main__":
    main()
