"""Node clients through the gateway to upstreams of each dialect: runs node/matrix.test.mjs, whose own report is shown when it fails."""

import json
import re
import subprocess

from harness import matrix
from harness.gateway import TOKEN
from harness.matrix import FEATURES, NODE_CLIENTS, UPSTREAMS
from harness.paths import E2E, environment
from harness.tap import Tap


def test_node_clients_with_every_upstream_dialect(start, emulator, record_property):
    tap = Tap(emulator)
    gateway = start(matrix.config(tap))
    told = {name: getattr(matrix, name) for name in ("TEXT", "PARALLEL", "PNG", "PDF", "WEATHER", "TIME", "CITY")}
    env = environment(BERRY_URL=gateway.url, BERRY_TOKEN=TOKEN, BERRY_MATRIX=json.dumps(told))
    command = ["node", "--test", "--test-reporter=tap", E2E / "node" / "matrix.test.mjs"]
    run = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
    tap.stop()
    counts = dict(re.findall(r"^# (tests|pass|fail) (\d+)$", run.stdout, re.MULTILINE))
    assert run.returncode == 0, run.stdout
    assert int(counts["pass"]) == len(NODE_CLIENTS) * len(UPSTREAMS) * len(FEATURES) + 1
    # Every image and every document arrived.
    cells = len(NODE_CLIENTS) * len(UPSTREAMS)
    assert sum(matrix.PNG.encode() in body for body in tap.bodies) == cells
    assert sum(matrix.PDF.encode() in body for body in tap.bodies) == cells
    record_property("cells", ", ".join(f"{name} {count}" for name, count in counts.items()))
