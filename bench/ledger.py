#!/usr/bin/env python3
"""Measures what the ledger costs: CPU, instructions and system calls of a request with the ledger on (SQLite) and off.

    bench/ledger.py                     build, measure, print both and the ratio
    bench/ledger.py --no-build          measure the binaries that are there
    bench/ledger.py --binaries DIR      those of another folder than target/dist
    bench/ledger.py --only time         CPU alone; or counts, which other work on the machine does not change

Two gateways, alike but for `[ledger]`, stand before the upstream of bench/run.py, at 1,000 requests a second, at 6,000, and as fast as
32 connections go. CPU is that of all threads, from the first request of a round until the database has its rows; another gateway goes
first in every round, each round is compared with itself, and the middle counts. Instructions and system calls need valgrind and
strace; they are told for the thread `ledger` and for all others apart, because a program under callgrind is slow, so that its
transactions are small and dearer for each row than they are.
"""

import argparse
import collections
import json
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

import run

#: What is asked of both, and how many requests make a round.
LOADS = {
    "at 1,000/s": {"connections": 16, "requests": 2000, "rate": 1000},
    "at 6,000/s": {"connections": 32, "requests": 12000, "rate": 6000},
    "saturated": {"connections": 32, "requests": 30000},
}
#: Longer than rows wait for company, seconds.
BATCH_WAIT = 1.3
#: The thread that fills the database.
WRITER = "ledger"


class Gateway(run.Target):
    """A gateway with or without its ledger."""

    def __init__(self, ledger, upstream, **options):
        self.ledger = ledger
        super().__init__("berry", upstream, **options)

    def command(self, upstream, one_worker):
        command = super().command(upstream, one_worker)
        if self.ledger:
            config = pathlib.Path(self.dir, "target.toml")
            config.write_text(config.read_text().replace('backend = "off"', 'backend = "sqlite"'))
        return command

    def caught_up(self):
        """Waits until the database has every row, with as many looks at a gateway without one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(BATCH_WAIT)
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health") as answer:
                ledger = json.load(answer)["ledger"]
            if ledger["lag_rows"] == 0:
                assert ledger["dropped_rows"] == 0, ledger
                return
        raise SystemExit("the database does not take the rows")

    def cpu(self):
        """CPU nanoseconds of the ledger's thread, and of all others."""
        spent = collections.Counter()
        for thread in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            writer = (thread / "comm").read_text().strip() == WRITER
            spent[writer] += int((thread / "schedstat").read_text().split()[0])
        return spent[True], spent[False]


def measure_time(gateway, load):
    """CPU microseconds of a request: of the ledger's thread, and of all others."""
    before = gateway.cpu()
    report = gateway.load(**load)
    gateway.caught_up()
    return [(after - before) / report["requests"] / 1000 for after, before in zip(gateway.cpu(), before)]


def compare_time(options, upstream):
    figures = {kind: [] for kind in LOADS}
    with Gateway(False, upstream) as off, Gateway(True, upstream) as on:
        for gateway in (off, on):
            gateway.load(connections=32, requests=5000)
            gateway.caught_up()
        for number in range(options.rounds):
            for kind, load in LOADS.items():
                pair = {gateway: measure_time(gateway, load) for gateway in ((off, on), (on, off))[number % 2]}
                figures[kind].append((pair[off], pair[on]))
    middle = statistics.median
    print(f"CPU of a request, us, middle of {options.rounds} rounds:")
    for kind, rounds in figures.items():
        off, on, writer = (middle(values) for values in zip(*((sum(off), sum(on), on[0]) for off, on in rounds)))
        ratios = sorted(sum(on) / sum(off) for off, on in rounds)
        quarter = len(ratios) // 4
        print(
            f"  {kind:11} off {off:6.2f}  on {on:6.2f}, {writer:.2f} of it the ledger's thread;"
            f"  on / off {middle(ratios):.3f}, half of the rounds {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
        )


def instructions(ledger, upstream, requests):
    """User instructions of a whole run: of the ledger's thread, and of all others."""
    with tempfile.TemporaryDirectory() as out:
        under = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes", f"--callgrind-out-file={out}/out"]
        with Gateway(ledger, upstream, under=under, one_worker=True) as gateway:
            gateway.load(connections=1, requests=requests)
            gateway.caught_up()
            names = list(gateway.threads().values())
        spent = collections.Counter()
        for file in pathlib.Path(out).glob("out-*"):
            text = file.read_text()
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            thread = int(re.search(r"^thread: (\d+)", text, re.M)[1])
            if total:
                spent[thread <= len(names) and names[thread - 1] == WRITER] += int(total[1])
        return spent[True], spent[False]


def compare_instructions(upstream):
    figures = {}
    for ledger in (False, True):
        few, many = (instructions(ledger, upstream, requests) for requests in (200, 2200))
        figures[ledger] = [(many - few) / 2000 for many, few in zip(many, few)]
    tell("User instructions of a request", figures, "{:,.0f}")


def compare_calls(upstream):
    figures = {}
    for ledger in (False, True):
        with Gateway(ledger, upstream, one_worker=True) as gateway:
            gateway.load(connections=1, requests=50)
            gateway.caught_up()
            figures[ledger] = calls(gateway, 2000)
    tell("System calls of a request", figures, "{:.3f}")


def calls(gateway, requests):
    names = gateway.threads()
    with tempfile.NamedTemporaryFile("r") as out:
        strace = subprocess.Popen(["strace", "-f", "-qq", "-o", out.name, "-p", str(gateway.process.pid)], stderr=subprocess.DEVNULL)
        statuses = [pathlib.Path(f"/proc/{thread}/status") for thread in names]
        while strace.poll() is None and any("TracerPid:\t0" in status.read_text() for status in statuses):
            time.sleep(0.02)
        gateway.load(connections=1, requests=requests)
        # The last transaction belongs to these requests too.
        time.sleep(1)
        strace.send_signal(signal.SIGINT)
        strace.wait(30)
        counts = collections.Counter()
        for line in out:
            call = re.match(r"(\d+) +([a-z_0-9]+)\(", line)
            if call:
                counts[names.get(int(call[1])) == WRITER] += 1
        return counts[True] / requests, counts[False] / requests


def tell(what, figures, form):
    (_, off), (writer, on) = figures[False], figures[True]
    print(f"{what}, without the ledger's thread:")
    print(f"  ledger off         {form.format(off):>8}")
    print(f"  ledger on          {form.format(on):>8}, on / off {on / off:.3f}; the ledger's thread {form.format(writer)} more")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = run.prepare(parser, ["time", "counts"])
    with run.upstream() as port:
        if options.only != "counts":
            compare_time(options, port)
        if options.only != "time" and shutil.which("valgrind"):
            compare_instructions(port)
        if options.only != "time" and shutil.which("strace"):
            compare_calls(port)


if __name__ == "__main__":
    main()
