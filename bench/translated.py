#!/usr/bin/env python3
"""Compares requests that are translated with requests that pass through: requests a second and CPU time of the gateway.

    bench/translated.py                 build, measure, print
    bench/translated.py --no-build      measure the binaries that are there
    bench/translated.py --binaries DIR  those of another folder than target/dist

The upstream is the one of bench/run.py, which speaks chat completions. A chat request passes through to it; a Messages request of
the same content is translated on its way there and back. Each is asked for plain and as a stream of a hundred events, in turns,
over the same number of connections, and the middle round counts. Needs wrk (Debian: wrk).
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

import run

CONNECTIONS = 16
#: Events of a streamed answer.
EVENTS = 100
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


def load(target, path, body, seconds):
    """Runs wrk; gives requests a second and CPU microseconds of the gateway for each."""
    script = pathlib.Path(target.dir, "request.lua")
    header = f'wrk.headers["authorization"] = "Bearer {run.TOKEN}"\nwrk.headers["content-type"] = "application/json"\n'
    script.write_text(f'wrk.method = "POST"\n{header}wrk.body = [==[{json.dumps(body, separators=(",", ":"))}]==]\n')
    before = cpu_seconds(target.process.pid)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{target.port}{path}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(said)
    requests = int(re.search(r"(\d+) requests in", said)[1])
    spent = cpu_seconds(target.process.pid) - before
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), spent / requests * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--binaries", type=pathlib.Path, default=run.BIN)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed")
    if not options.no_build:
        run.build(["berry"])
    run.BIN = options.binaries
    port = run.free_port()
    upstream = subprocess.Popen([str(run.BIN / "bench-upstream"), "--bind", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL)
    run.wait_for(port, upstream)
    try:
        with run.Target("berry", port) as target:
            for stream in (False, True):
                kinds = bodies(stream)
                rounds = {kind: [] for kind in kinds}
                for body in kinds.values():
                    load(target, *body, 1)
                for _ in range(options.rounds):
                    for kind, body in kinds.items():
                        rounds[kind].append(load(target, *body, options.seconds))
                middle = {kind: [statistics.median(figure) for figure in zip(*rounds[kind])] for kind in kinds}
                for kind, (rate, cpu) in middle.items():
                    print(f"{'streamed' if stream else 'plain':9} {kind:15} {rate:9.0f} requests/s {cpu:8.1f} us CPU/request")
                (passed, passed_cpu), (translated, translated_cpu) = middle.values()
                print(f"          translated / passed through: {translated / passed:.2f} of the rate, {translated_cpu / passed_cpu:.2f} of the CPU")
    finally:
        upstream.terminate()
        upstream.wait()


if __name__ == "__main__":
    main()
