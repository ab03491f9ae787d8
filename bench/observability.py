#!/usr/bin/env python3
"""What observability costs: CPU per request with all of it beside none.

    bench/observability.py                   build both, measure in turns, print
    bench/observability.py --only counts     only user instructions, which a busy machine cannot change
    bench/observability.py --no-build        measure the binaries of target/observability that are there

*On*: the access line (RUST_LOG=info), metrics, and a span for every request and attempt (OTLP to a receiver on this machine,
trace_sample_ratio 1). *Off*: a build without the feature `observability`, RUST_LOG=off. The ledger is off on both sides. CPU is that of
all threads, so the log's writer and the exporter count. The load is that of bench/run.py: at 1,000 requests a second, at 6,000, and as
fast as 32 connections go. Rounds are short and many, and the other side goes first in every second one: what else happens on the
machine then meets both. The cost is the median over
the rounds of what on takes beside off. Exit status 1 when it is above the goal of ten per cent.
"""

import argparse
import http.server
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import urllib.request

import run

BINARIES = run.ROOT / "target" / "observability"
GOAL = 0.10
#: Requests of the smaller and the larger run under callgrind.
COUNTED = (500, 3500)


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes what a collector would take."""

    protocol_version = "HTTP/1.1"
    bytes = 0

    def do_POST(self):
        Receiver.bytes += len(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Side(run.Target):
    """A gateway with everything on or everything off."""

    collector = None

    def command(self, upstream, one_worker):
        on = self.name == "on"
        text = run.BERRY.format(dir=self.dir, upstream=upstream, token=run.TOKEN)
        if on:
            text += f'\n[telemetry]\notlp_endpoint = "{Side.collector}"\n'
        config = pathlib.Path(self.dir, "target.toml")
        config.write_text(text)
        config.chmod(0o600)
        self.environment = {"RUST_LOG": "info" if on else "off"}
        return [str(BINARIES / f"berry-api-{self.name}"), "--config", str(config), "--bind", f"127.0.0.1:{self.port}"]

    def dropped(self):
        """Spans and lines that were lost, for which the price was not paid."""
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/prometheus").read().decode()
        names = ("berry_trace_spans_dropped_total ", "berry_log_lines_dropped_total ")
        return sum(float(line.split()[1]) for line in page.splitlines() if line.startswith(names))


def build():
    BINARIES.mkdir(parents=True, exist_ok=True)
    for side, more in (("off", ["--no-default-features"]), ("on", [])):
        command = ["cargo", "build", "--profile", "dist", "--locked", "-p", "berry-api", "-p", "berry-bench", *more]
        subprocess.run(command, cwd=run.ROOT, check=True)
        shutil.copy2(run.BIN / "berry-api", BINARIES / f"berry-api-{side}")


def measure_time(upstream, options):
    """CPU microseconds per request of every round, by kind of load and side."""
    loads = {
        "at 1,000/s": {"connections": 16, "requests": options.requests, "warmup": 100, "rate": 1000},
        "at 6,000/s": {"connections": 32, "requests": 6 * options.requests, "warmup": 500, "rate": 6000},
        "saturated": {"connections": 32, "requests": 15 * options.requests, "warmup": 500},
    }
    figures = {kind: {"off": [], "on": []} for kind in loads}
    with Side("off", upstream) as off, Side("on", upstream) as on:
        for number in range(options.rounds):
            for kind, load in loads.items():
                for side in (off, on) if number % 2 == 0 else (on, off):
                    report = side.load(**load)
                    figures[kind][side.name].append(report["cpu_us"] / report["requests"])
        if lost := on.dropped():
            print(f"{lost:.0f} spans or lines were lost, which makes the cost look smaller than it is")
    return figures


def measure_counts(upstream):
    figures = {}
    for side in ("off", "on"):
        loads = [lambda target, requests=requests: target.load(connections=1, requests=requests) for requests in COUNTED]
        few, many = (sum(run.instructions(side, upstream, load, Side)) for load in loads)
        figures[side] = [(many - few) / (COUNTED[1] - COUNTED[0])]
    return {"instructions": figures}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--requests", type=int, default=600, help="of each measurement at 1,000/s; 6 and 15 times as many at higher rates")
    parser.add_argument("--only", choices=["time", "counts"])
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--tools", type=pathlib.Path, default=run.BIN, help="folder of bench-load and bench-upstream")
    options = parser.parse_args()
    if not options.no_build:
        build()
    run.BIN = options.tools
    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    Side.collector = f"http://127.0.0.1:{receiver.server_port}"
    figures = {}
    with run.upstream() as port:
        if options.only != "counts":
            figures |= measure_time(port, options)
        if options.only != "time" and shutil.which("valgrind"):
            figures |= measure_counts(port)
    print(f"spans received: {Receiver.bytes / 1e6:.1f} MB")
    costs = {}
    for kind, sides in figures.items():
        unit = "user instructions" if kind == "instructions" else "µs CPU"
        off, on = (statistics.median(sides[side]) for side in ("off", "on"))
        more = sorted(on / off - 1 for off, on in zip(sides["off"], sides["on"]))
        costs[kind] = statistics.median(more)
        middle = f", half of the rounds {more[len(more) // 4]:+.1%} to {more[-1 - len(more) // 4]:+.1%}" if len(more) > 1 else ""
        print(f"{kind:13} off {off:10,.1f}  on {on:10,.1f} {unit} per request, {costs[kind]:+.1%}{middle}")
    # Instructions leave out the kernel, which is most of a request; the goal is one of CPU time.
    return any(cost > GOAL for kind, cost in costs.items() if kind != "instructions")


if __name__ == "__main__":
    sys.exit(main())
