"""Node clients through the gateway to upstreams of each dialect: runs node/matrix.test.mjs and node/silence.test.mjs, whose own
reports are shown when they fail."""

import json
import re
import subprocess

from harness import matrix
from harness.gateway import TOKEN
from harness.matrix import FEATURES, NODE_CLIENTS, UPSTREAMS
from harness.paths import E2E, environment
from harness.tap import SILENCE, Tap

#: Clients of node/silence.test.mjs.
SILENT_CLIENTS = 8


def run(file, gateway) -> dict[str, str]:
    """Runs tests of Node; gives how many there were."""
    told = {name: getattr(matrix, name) for name in ("TEXT", "PARALLEL", "PNG", "PDF", "WEATHER", "TIME", "CITY")}
    told["SILENCE"] = SILENCE
    env = environment(BERRY_URL=gateway.url, BERRY_TOKEN=TOKEN, BERRY_MATRIX=json.dumps(told))
    command = ["node", "--test", "--test-reporter=tap", E2E / "node" / file]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
    assert done.returncode == 0, done.stdout
    return dict(re.findall(r"^# (tests|pass|fail) (\d+)$", done.stdout, re.MULTILINE))


def test_node_clients_with_every_upstream_dialect(start, emulator, record_property):
    tap = Tap(emulator)
    gateway = start(matrix.config(tap))
    counts = run("matrix.test.mjs", gateway)
    tap.stop()
    assert int(counts["pass"]) == len(NODE_CLIENTS) * len(UPSTREAMS) * len(FEATURES) + 1
    # Every image and every document arrived.
    cells = len(NODE_CLIENTS) * len(UPSTREAMS)
    assert sum(matrix.PNG.encode() in body for body in tap.bodies) == cells
    assert sum(matrix.PDF.encode() in body for body in tap.bodies) == cells
    record_property("cells", ", ".join(f"{name} {count}" for name, count in counts.items()))


def test_forty_seconds_of_silence_end_no_node_clients_stream(start, emulator, record_property):
    tap = Tap(emulator)
    counts = run("silence.test.mjs", start(matrix.config(tap)))
    tap.stop()
    assert int(counts["pass"]) == SILENT_CLIENTS * len(UPSTREAMS)
    record_property("silence", f"40 s survived by {counts['pass']} streams of Node's clients that give up after 25 s")
