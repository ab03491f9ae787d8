#!/usr/bin/env python3
"""Compares requests that are translated with requests that pass through: requests a second, CPU time and instructions of the gateway.

    bench/translated.py                 build, measure, print
    bench/translated.py --no-build      measure the binaries that are there
    bench/translated.py --binaries DIR  those of another folder than target/dist
    bench/translated.py --only counts   instructions only, which a busy machine does not change

The upstream is the one of bench/run.py, which speaks chat completions. A chat request passes through to it; a Messages request of
the same content is translated on its way there and back. Each is asked for plain, as a stream of a hundred events that come at once,
and as 32 streams whose events are 2 ms apart, as models write them; in turns, over the same number of connections, and the middle
round counts. Instructions are those of two runs under callgrind that differ in the number of requests alone. Needs wrk, and
valgrind for the instructions (Debian: wrk, valgrind).
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

import run

#: Events of a streamed answer.
EVENTS = 100
#: What is measured: whether it is a stream, milliseconds between its events, connections.
CASES = {"plain": (False, 0, 16), "streamed at once": (True, 0, 16), "streamed, 2 ms apart": (True, 2, 32)}
#: Requests of the two runs whose difference is counted.
COUNTED = (10, 60)
PROMPT = "The ferry leaves the harbour at nine, and nobody waits for those who come later.\n" * 12
SYSTEM = "You are a helpful assistant. Be brief, be kind, and quote your sources."
TOOL = {"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}, "required": ["city"]}


def bodies(stream):
    """One request as a chat completion and as a message, each with its path."""
    chat = {
        "model": "bench-model",
        "max_tokens": EVENTS,
        "stream": stream,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Tells it", "parameters": TOOL}}],
    }
    message = {
        "model": "bench-model",
        "max_tokens": EVENTS,
        "stream": stream,
        "system": SYSTEM,
        "messages": [{"role": "user", "content": PROMPT}],
        "tools": [{"name": "weather", "description": "Tells it", "input_schema": TOOL}],
    }
    return {"passed through": ("/v1/chat/completions", chat), "translated": ("/v1/messages", message)}


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(target, path, body, seconds, connections):
    """Runs wrk; gives requests a second and CPU microseconds of the gateway for each."""
    script = pathlib.Path(target.dir, "request.lua")
    header = f'wrk.headers["authorization"] = "Bearer {run.TOKEN}"\nwrk.headers["content-type"] = "application/json"\n'
    script.write_text(f'wrk.method = "POST"\n{header}wrk.body = [==[{json.dumps(body, separators=(",", ":"))}]==]\n')
    before = cpu_seconds(target.process.pid)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{target.port}{path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(said)
    requests = int(re.search(r"(\d+) requests in", said)[1])
    spent = cpu_seconds(target.process.pid) - before
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), spent / requests * 1e6


def ask(target, path, body, requests):
    """Sends so many requests, one after the other, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=600)
    headers = {"authorization": f"Bearer {run.TOKEN}", "content-type": "application/json"}
    for _ in range(requests):
        connection.request("POST", path, json.dumps(body, separators=(",", ":")), headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {said[:500]}")
    connection.close()


def count(port, path, body):
    """Instructions of one request."""
    few, many = (run.instructions("berry", port, lambda target, n=n: ask(target, path, body, n))[0] for n in COUNTED)
    return (many - few) / (COUNTED[1] - COUNTED[0])


def timed(port, kinds, connections, options):
    """The middle of some rounds for each kind: requests a second, and CPU microseconds of one."""
    rounds = {kind: [] for kind in kinds}
    with run.Target("berry", port) as target:
        for body in kinds.values():
            load(target, *body, 1, connections)
        for _ in range(options.rounds):
            for kind, body in kinds.items():
                rounds[kind].append(load(target, *body, options.seconds, connections))
    return {kind: [statistics.median(figure) for figure in zip(*rounds[kind])] for kind in kinds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    options = run.prepare(parser, ["times", "counts"])
    for tool, part in {"wrk": "times", "valgrind": "counts"}.items():
        if options.only in (None, part) and shutil.which(tool) is None:
            sys.exit(f"{tool} is needed")
    print("| | requests/s | CPU us/request | instructions/request |\n|---|---:|---:|---:|")
    for case, (stream, gap, connections) in CASES.items():
        kinds = bodies(stream)
        figures = {kind: [None, None, None] for kind in kinds}
        with run.upstream(gap_ms=gap) as port:
            if options.only != "counts":
                for kind, (rate, cpu) in timed(port, kinds, connections, options).items():
                    figures[kind][:2] = rate, cpu
            if options.only != "times":
                for kind, body in kinds.items():
                    figures[kind][2] = count(port, *body)
        for kind, row in figures.items():
            print(f"| {case}, {kind} | " + " | ".join("" if one is None else f"{one:,.0f}" for one in row) + " |")
        ratios = ["" if None in pair else f"{pair[1] / pair[0]:.2f}" for pair in zip(*figures.values())]
        print(f"| {case}, translated / passed through | " + " | ".join(ratios) + " |", flush=True)


if __name__ == "__main__":
    main()
