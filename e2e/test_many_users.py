"""Very many users: they load quickly, take little memory, and each of them gets in."""

import hashlib
import time

from harness.gateway import DEMO, TOKEN

USERS = 100_000


def token(number: int) -> str:
    return "e2e-" + hashlib.sha256(str(number).encode()).hexdigest()[:40]


def users(count: int) -> str:
    one = '[users.u{0}]\nname = "User {0}"\ntoken = "{1}"\ntags = ["team-{2}"]\n[users.u{0}.rate_limit]\nrequests_per_minute = 60\n\n'
    return "".join(one.format(number, token(number), number % 50) for number in range(count))


def test_a_hundred_thousand_users_load_at_once_and_are_small(start, record_property):
    bare = start(DEMO).resident_kib()
    began = time.monotonic()
    gateway = start(DEMO + users(USERS))
    seconds = time.monotonic() - began
    each = (gateway.resident_kib() - bare) * 1024 / USERS
    peak = gateway.peak_kib() * 1024 / USERS
    record_property("users", f"{USERS:,} in {seconds:.1f} s, {each:.0f} bytes each, {peak:.0f} at the peak")
    # What the allocator keeps and the page tables are shared by fewer than a million here.
    assert each < 300 and peak < 1_500, (each, peak)
    assert seconds < 15
    for number in (0, 1, USERS // 2, USERS - 1):
        assert gateway.request("GET", "/v1/models", token=token(number)).status == 200
    assert gateway.request("GET", "/v1/models", token=token(USERS)).status == 401
    reloaded = gateway.request("POST", "/admin/reload-config", token=TOKEN)
    assert reloaded.status == 200 and not reloaded.json()["changes"], reloaded.body
