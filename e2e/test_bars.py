"""What clients notice of failing upstreams, over real processes and sockets, with figures. `docs/reliability.md` has the table.

`BERRY_E2E_FULL=1` makes the loads five times as long.
"""

import asyncio
import json
import os
import statistics
import time

import pytest

from harness.fleet import BODY, ERROR, STREAM_HEAD, Fleet, ask, chunk, config, event, load, percentile, response
from harness.gateway import TOKEN, Gateway

pytestmark = pytest.mark.alone

LONGER = 5 if os.environ.get("BERRY_E2E_FULL") else 1
STRATEGIES = (
    "weighted_random round_robin least_latency failover random weighted_failover "
    "smart_weighted_failover smart_ai least_busy cheapest sticky"
).split()


def run(directory, scenario, nodes: int = 3, **options):
    """Runs `scenario(gateway, nodes)` with a gateway before so many nodes."""

    async def main():
        async with Fleet(nodes) as fleet:
            for node in fleet:
                for name, value in options.get("node", {}).items():
                    setattr(node, name, value)
            wanted = {name: value for name, value in options.items() if name != "node"}
            loop = asyncio.get_running_loop()
            # Starting and stopping wait for the process, which may be waiting for a node of this loop.
            gateway = await loop.run_in_executor(None, lambda: Gateway(config(fleet, **wanted), directory))
            try:
                return await asyncio.wait_for(scenario(gateway, fleet), 120)
            finally:
                await loop.run_in_executor(None, gateway.stop)

    return asyncio.run(main())


def errors(answers) -> list:
    return [(answer.status, answer.body[:200]) for answer in answers if answer.status != 200]


async def later(seconds: float, action) -> None:
    await asyncio.sleep(seconds)
    done = action()
    if asyncio.iscoroutine(done):
        await done


def test_b01_a_killed_upstream_of_three_under_200_requests_a_second_is_not_noticed(tmp_path, record_property):
    async def scenario(gateway, nodes):
        before, after = 2, 4 * LONGER
        killed = time.monotonic() + before
        answers, _ = await asyncio.gather(load(gateway.port, 200, before + after), later(before, nodes[0].kill))
        return answers, killed

    answers, killed = run(tmp_path, scenario)
    # By the second, from the kill on: a pause of the machine falls on one or two of them, what a dead upstream costs on all.
    seconds = [[answer.latency for answer in answers if 0 <= answer.at - killed - second < 1] for second in range(4 * LONGER)]
    p99s = [percentile(latencies, 0.99) for latencies in seconds]
    down = statistics.median(p99s)
    told = ", ".join(f"{p99:.1f}" for p99 in p99s)
    record_property("B01", f"{len(answers)} requests, {len(errors(answers))} errors, p99 of each second while down {told} ms")
    assert errors(answers) == []
    assert down < 250, told


def test_b26_the_first_backend_may_die_under_every_strategy(tmp_path, record_property):
    async def scenario(gateway, nodes):
        seconds = 6 * LONGER
        return (await asyncio.gather(load(gateway.port, 165, seconds, STRATEGIES), later(2, nodes[0].kill)))[0]

    answers = run(tmp_path, scenario, strategies=STRATEGIES)
    record_property("B26", f"{len(STRATEGIES)} strategies, {len(answers)} requests, {len(errors(answers))} errors")
    assert errors(answers) == []


def test_b17_with_all_upstreams_down_the_answer_is_quick_and_says_when_to_come_back(tmp_path, record_property):
    async def scenario(gateway, nodes):
        await load(gateway.port, 50, 0.5)
        for node in nodes:
            node.kill()
        # The circuits open.
        await load(gateway.port, 100, 1)
        answers = await load(gateway.port, 100, 3 * LONGER)
        for node in nodes:
            await node.start()
        healed = time.monotonic()
        while errors(await load(gateway.port, 10, 0.1)):
            assert time.monotonic() - healed < 30, "never back"
        return answers, time.monotonic() - healed

    settings = "circuit_breaker_timeout_seconds = 5\nrecovery_check_interval_seconds = 1"
    answers, back = run(tmp_path, scenario, settings=settings)
    p50 = percentile([answer.latency for answer in answers], 0.5)
    record_property("B17", f"{len(answers)} requests, p50 {p50:.1f} ms; back {back:.1f} s after the upstreams")
    assert {answer.status for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 and b'"error"' in answer.body for answer in answers)
    assert p50 < 5
    assert back < 6


def retries_allowed(answers, since: float) -> float:
    """What the retry budget gives from `since` seconds after the first of these requests on: a fifth of them, and ten in a second
    that had fewer than fifty, as a pause of the machine leaves behind it.

    A request that was answered in another second than the one it was due in may count in either, and the seconds may begin anywhere.
    """
    began, ended = answers[0].at + since, answers[-1].at + answers[-1].latency

    def missing(phase: float) -> float:
        lacking = 0.0
        for number in range(int(ended - began) + 2):
            least, most = max(began, began + number - phase), min(ended, began + number + 1 - phase)
            certain = sum(least <= answer.at and answer.at + answer.latency < most for answer in answers)
            lacking += max(0.0, 10 * (most - least) - certain / 5)
        return lacking

    return sum(answer.at >= began for answer in answers) / 5 + max(missing(phase / 50) for phase in range(50))


def test_b18_an_outage_of_all_upstreams_is_not_amplified(tmp_path, record_property):
    async def scenario(gateway, nodes):
        answers = await load(gateway.port, 100, 8 * LONGER)
        return answers, sum(len(node.chats) for node in nodes)

    # The circuits stay closed, so that nothing but the retry budget limits the attempts.
    settings = "circuit_breaker_failure_threshold = 1000000"
    answers, sent = run(tmp_path, scenario, settings=settings, node={"failing": 1.0})
    # Counted by request: an attempt that is made within the window may belong to a request before it.
    attempts = [(answer.at - answers[0].at, int(answer.headers["x-berry-attempts"])) for answer in answers]
    steady = [number for at, number in attempts if at >= 3]
    overall, late, allowed = sent / len(answers), sum(steady) / len(steady), 1 + retries_allowed(answers, 3) / len(steady)
    figures = f"{overall:.3f} attempts each, {late:.3f} in steady state, where {allowed:.3f} are allowed"
    slowest = max(answer.latency for answer in answers)
    record_property("B18", f"{len(answers)} requests, {figures}; slowest answer {1000 * slowest:.0f} ms")
    assert {answer.status for answer in answers} <= {500, 502, 503}
    assert sent == sum(number for _, number in attempts), "what was sent is what was told"
    assert late <= allowed, figures
    assert overall <= 1.5


def test_b24_a_healed_upstream_is_not_trampled(tmp_path, record_property):
    async def scenario(gateway, nodes):
        sick = nodes[0]
        answers = await load(gateway.port, 100, 1)
        sick.kill()
        answers += await load(gateway.port, 100, 2)
        sick.models_delay = 0.5
        await sick.start()
        healed = time.monotonic()
        answers += await load(gateway.port, 100, 12 * LONGER)
        return answers, healed, sick.probed_at, [at for at in sick.chats if at > healed]

    settings = "circuit_breaker_timeout_seconds = 2\nrecovery_check_interval_seconds = 1\nhealth_check_interval_seconds = 2"
    answers, healed, probed, chats = run(tmp_path, scenario, nodes=2, settings=settings)
    assert probed, "it was probed"
    early = sum(at < probed for at in chats)
    seconds = [sum(second <= at - healed < second + 1 for at in chats) for second in range(12)]
    record_property("B24", f"{early} requests before the first answered probe; then each second {seconds} of 100")
    assert errors(answers) == []
    assert early <= 3


def test_b24_a_healed_upstream_gets_its_share_back_in_steps(tmp_path, record_property):
    model = "/admin/model-weights?model=weighted_random"

    async def scenario(gateway, nodes):
        loop, sick = asyncio.get_running_loop(), nodes[0]

        def share() -> float:
            weights = gateway.request("GET", model, token=TOKEN).json()["models"]["weighted_random"]
            backend = next(backend for backend in weights["backends"] if backend["provider"] == sick.name)
            return backend["effective_weight"] / backend["original_weight"]

        sick.kill()
        answers = await load(gateway.port, 100, 1, ["weighted_random"])
        await sick.start()
        going_on, shares = asyncio.ensure_future(load(gateway.port, 20, 10, ["weighted_random"])), []
        while not going_on.done():
            shares.append(await loop.run_in_executor(None, share))
        return answers + await going_on, shares

    settings = "circuit_breaker_timeout_seconds = 2\nrecovery_check_interval_seconds = 1"
    answers, shares = run(tmp_path, scenario, nodes=2, strategies=["weighted_random"], settings=settings)
    steps = [share for share, before in zip(shares, [None, *shares]) if share != before]
    record_property("B24, steps", " → ".join(f"{share:.0%}" for share in steps))
    assert errors(answers) == []
    assert steps[-4:] == pytest.approx([0, 0.3, 0.5, 1])


def test_b25_a_slow_node_loses_its_share_and_gets_it_back(tmp_path, record_property):
    async def scenario(gateway, nodes):
        slow = nodes[0]
        slow.delay = 0.3
        await load(gateway.port, 100, 2, ["least_latency"])
        before = len(slow.chats)
        answers = await load(gateway.port, 100, 3 * LONGER, ["least_latency"])
        share = (len(slow.chats) - before) / len(answers)
        slow.delay = 0.005
        healed = time.monotonic()
        while True:
            before = len(slow.chats)
            part = await load(gateway.port, 100, 1, ["least_latency"])
            answers += part
            back = time.monotonic() - healed
            if (len(slow.chats) - before) / len(part) >= 0.2 or back > 30:
                return answers, share, back

    answers, share, back = run(tmp_path, scenario, strategies=["least_latency"], node={"delay": 0.005})
    record_property("B25", f"share of the slow node {share:.1%}; a fifth again after {back:.0f} s")
    assert errors(answers) == []
    assert share <= 0.10
    assert back <= 15


def test_b32_a_backend_that_fails_every_other_time_is_ejected(tmp_path, record_property):
    async def scenario(gateway, nodes):
        gray = nodes[0]
        gray.failing = 0.5
        began = time.monotonic()
        answers = await load(gateway.port, 100, 12 * LONGER)
        return answers, [at - began for at in gray.chats if at > began]

    answers, chats = run(tmp_path, scenario, settings="circuit_breaker_failure_threshold = 1000000")
    gaps = [later - earlier for earlier, later in zip(chats, chats[1:] + [12.0 * LONGER])]
    ejected = next((at for at, gap in zip(chats, gaps) if gap > 1), None)
    failed = len(errors(answers)) / len(answers)
    assert ejected is not None, "never ejected"
    record_property("B32", f"{len(answers)} requests, {failed:.2%} errors, ejected after {ejected:.1f} s")
    assert failed < 0.001
    assert ejected < 10


def test_b33_when_every_probe_fails_and_chats_work_all_is_served(tmp_path, record_property):
    async def scenario(gateway, nodes):
        for node in nodes:
            node.models_status = 500
        return await load(gateway.port, 100, 5 * LONGER)

    settings = "health_check_interval_seconds = 1\nrecovery_check_interval_seconds = 1"
    answers = run(tmp_path, scenario, settings=settings, node={"models_status": 500})
    record_property("B33", f"{len(answers)} requests, {len(errors(answers))} errors")
    assert errors(answers) == []


def test_b61_connections_that_close_under_a_request_are_not_noticed(tmp_path, record_property):
    async def scenario(gateway, nodes):
        return await load(gateway.port, 200, 6 * LONGER)

    answers = run(tmp_path, scenario, nodes=1, node={"closes_within": 0.012})
    record_property("B61", f"{len(answers)} requests, {len(errors(answers))} errors")
    assert errors(answers) == []
    assert {answer.headers["x-berry-attempts"] for answer in answers} == {"1"}, "counted as no attempt of its own"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_b21_silence_before_the_head_is_left_for_another_backend(tmp_path, record_property, stream):
    async def scenario(gateway, nodes):
        nodes[0].hanging = True
        connection = await asyncio.open_connection("127.0.0.1", gateway.port)
        answer = await ask(connection, gateway.port, "failover", time.monotonic(), stream)
        connection[1].close()
        return answer

    settings = "request_timeout_seconds = 1\ncompletion_timeout_seconds = 1"
    answer = run(tmp_path, scenario, nodes=2, strategies=["failover"], settings=settings)
    record_property("B21", f"{answer.status} after {answer.latency:.2f} s, {answer.headers['x-berry-attempts']} attempts")
    assert (answer.status, answer.headers["x-berry-attempts"]) == (200, "2")
    assert b"[DONE]" in answer.body if stream else answer.body.startswith(b"{")
    assert answer.latency < 2


ERROR_EVENT = STREAM_HEAD + chunk(b'data: {"error":{"message":"overloaded","type":"server_error","code":"overloaded"}}\n\n')
PAGE = response(200, b"<html>please wait</html>", b"content-type: text/html\r\n")
#: What is wrong before the first token: bytes in place of the answer, and what follows them.
EARLY_FAULTS = {
    "reset": (b"", "reset"),
    "end": (b"", "end"),
    "half a head, reset": (b"HTTP/1.1 200 OK\r\ncontent-ty", "reset"),
    "half a head, end": (b"HTTP/1.1 200 OK\r\ncontent-ty", "end"),
    "500": (response(500, ERROR), "finish"),
    "503": (response(503, ERROR), "finish"),
    "garbage": (b"\x00\xff\x16 this is no answer\r\n\r\n", "end"),
    "a page": (PAGE, "finish"),
    "a cut body": (response(200, BODY)[:-20], "end"),
    "a stream that ends at once": (STREAM_HEAD + b"0\r\n\r\n", "finish"),
    "B02e: an error as the first event": (ERROR_EVENT + b"0\r\n\r\n", "finish"),
    "B02e: an error as the first event, reset": (ERROR_EVENT, "reset"),
}


async def ask_once(gateway, model: str, stream: bool):
    connection = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        return await asyncio.wait_for(ask(connection, gateway.port, model, time.monotonic(), stream), 20)
    finally:
        connection[1].close()


def is_whole(answer, stream: bool) -> bool:
    if not stream:
        return answer.body == BODY
    words = all(b"word%d " % number in answer.body for number in range(3))
    return words and answer.body.count(b'"finish_reason": "stop"') == 1 and answer.body.endswith(b"data: [DONE]\n\n")


def test_b02_a_fault_before_the_first_token_is_not_noticed(tmp_path, record_property):
    cases = [(*fault, stream) for fault in EARLY_FAULTS.items() for stream in (False, True)] * LONGER

    async def scenario(gateway, nodes):
        answers = []
        for number, (_, (raw, cut), stream) in enumerate(cases):
            nodes[0].raw, nodes[0].cut = raw, cut
            answers.append(await ask_once(gateway, f"failover-{number}" if number else "failover", stream))
        return answers

    answers = run(tmp_path, scenario, nodes=2, strategies=["failover"], copies=len(cases))
    for (name, _, stream), answer in zip(cases, answers, strict=True):
        told = (name, stream, answer.status, answer.body[:300])
        assert answer.status == 200 and is_whole(answer, stream), told
        assert answer.headers["x-berry-attempts"] == "2", told
    record_property("B02, B02e", f"{len(answers)} of {len(cases)} transparent, 2 attempts each")


def test_b04_a_clean_end_without_a_terminal_is_told_and_a_finish_without_done_is_none(tmp_path, record_property):
    begun = STREAM_HEAD + event({"role": "assistant", "content": ""}) + event({"content": "word0 "})
    cases = {
        "nothing": (begun + b"0\r\n\r\n", "finish"),
        "nothing, closed": (begun + b"0\r\n\r\n", "end"),
        "a finish": (begun + event({}, "stop") + b"0\r\n\r\n", "finish"),
        "a finish, closed": (begun + event({}, "stop") + b"0\r\n\r\n", "end"),
    }

    async def scenario(gateway, nodes):
        answers = {}
        for name, (nodes[0].raw, nodes[0].cut) in cases.items():
            answers[name] = [await ask_once(gateway, "failover", stream=True) for _ in range(10)]
        return answers, sum(len(node.chats) for node in nodes)

    settings = "circuit_breaker_failure_threshold = 1000000"
    answers, sent = run(tmp_path, scenario, nodes=1, strategies=["failover"], settings=settings)
    for name, told in answers.items():
        texts = [answer.body.decode() for answer in told]
        assert all(answer.status == 200 and "word0 " in text for answer, text in zip(told, texts)), (name, texts)
        flagged = sum('"code":"stream_incomplete"' in text and "[DONE]" not in text for text in texts)
        assert flagged == (0 if name.startswith("a finish") else 10), (name, texts[0])
        assert all(('"error"' in text) == (not name.startswith("a finish")) for text in texts), (name, texts[0])
    assert sent == 40, "one attempt each"
    record_property("B04", "20 of 20 without a terminal told, 0 of 20 finished ones")


def test_b19_b20_each_status_goes_where_it_belongs(tmp_path, record_property):
    moves, stays = (408, 429, 500, 502, 503, 504, 529, 401, 403), (400, 413, 422)
    cases = [(status, stream) for status in moves + stays for stream in (False, True)]

    async def scenario(gateway, nodes):
        first, second = nodes
        answers = []
        for number, (status, stream) in enumerate(cases):
            first.raw = response(status, ERROR)
            answers.append(await ask_once(gateway, f"failover-{number + 4}", stream))
        first.raw = response(429, ERROR, b"content-type: application/json\r\nretry-after: 30\r\n")
        second.raw = response(429, ERROR, b"content-type: application/json\r\nretry-after: 20\r\n")
        limited = [await ask_once(gateway, f"failover-{number}", number == 2) for number in (1, 2)]
        first.raw = second.raw = response(401, ERROR)
        refused = [await ask_once(gateway, f"failover-{number}", stream) for number, stream in ((3, True), (len(cases) + 4, False))]
        return answers, limited, refused

    answers, limited, refused = run(tmp_path, scenario, nodes=2, strategies=["failover"], copies=len(cases) + 5)
    for (status, stream), answer in zip(cases, answers, strict=True):
        expected = (status, "1") if status in stays else (200, "2")
        assert (answer.status, answer.headers["x-berry-attempts"]) == expected, (status, stream, answer.body)
    assert [(answer.status, answer.headers["retry-after"]) for answer in limited] == [(429, "20")] * 2
    assert all(answer.status == 502 and b'"upstream_auth_error"' in answer.body for answer in refused), refused
    record_property("B19, B20", f"{len(cases)} statuses; all 429: 429 with the smaller Retry-After; all 401: 502")


JSON_TYPE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
#: Answers that are none. Each is followed by the end of the connection.
MALFORMED = {
    "garbage": b"\x16\x03\x01\x00\xa5 nobody speaks this\r\n\r\n",
    "status line": b"HTTP/1.1 abc OK\r\n\r\n",
    "version": b"HTTP/7.3 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "content-length that is no number": JSON_TYPE + b"content-length: two\r\n\r\n{}",
    "two content-lengths": JSON_TYPE + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "content-length that lies": JSON_TYPE + b"content-length: 5000\r\n\r\n{}",
    "chunk size that is none": JSON_TYPE + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunk size that lies": JSON_TYPE + b"transfer-encoding: chunked\r\n\r\nffffffff\r\n{}\r\n0\r\n\r\n",
    "no JSON": response(200, b'{"id": "x", '),
    "a page": PAGE,
    "nothing": response(200, b""),
    "a header without a colon": b"HTTP/1.1 200 OK\r\nthis is no header\r\n\r\n{}",
    "NUL in a header": JSON_TYPE + b"x-a: b\x00c\r\ncontent-length: 2\r\n\r\n{}",
    "a head of 1 MiB": b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * (1 << 20) + b"\r\n\r\n{}",
    "a thousand headers": JSON_TYPE + b"".join(b"x-%d: y\r\n" % n for n in range(1000)) + b"content-length: 2\r\n\r\n{}",
    "nothing but 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "gzip that is damaged": response(200, b"\x1f\x8b\x08" + BODY, b"content-type: application/json\r\ncontent-encoding: gzip\r\n"),
    "a line of 8 MiB": STREAM_HEAD + chunk(b"data: " + b"a" * (8 << 20)),
    "40 MiB": response(200, b'{"a":"' + b"a" * (40 << 20) + b'"}'),
    "40 MiB, not announced": JSON_TYPE + b"transfer-encoding: chunked\r\n\r\n" + chunk(b'{"a":"' + b"a" * (40 << 20) + b'"}'),
}


def test_b23_whatever_an_upstream_answers_the_client_gets_http(tmp_path, record_property):
    async def scenario(gateway, nodes):
        loop, answers = asyncio.get_running_loop(), []
        settled = gateway.resident_kib() + 4 * 1024
        nodes[0].cut = "end"
        for name, raw in MALFORMED.items():
            for stream in (False, True):
                # What the answer before took is given back; the peak is that of one answer.
                await loop.run_in_executor(None, gateway.wait_for, lambda: gateway.resident_kib() < settled, 10, "memory is given back")
                nodes[0].raw = raw
                answers.append((name, stream, await ask_once(gateway, "failover", stream)))
        peak = gateway.peak_kib() / 1024
        nodes[0].raw, nodes[0].cut = None, "finish"
        last = await ask_once(gateway, "failover", stream=False)
        ready = await loop.run_in_executor(None, lambda: gateway.request("GET", "/readyz").status)
        return answers, peak, last, ready

    settings = "circuit_breaker_failure_threshold = 1000000\nmax_retries = 0"
    answers, peak, last, ready = run(tmp_path, scenario, nodes=1, strategies=["failover"], settings=settings)
    for name, stream, answer in answers:
        if answer.status == 200:
            # What is over the bound of an event passes as it comes, and is told to be cut.
            assert (name, stream) == ("a line of 8 MiB", True)
            assert answer.body[:9] == b"data: aaa" and b'\n\ndata: {"error":{' in answer.body[-1000:]
            continue
        assert answer.status in (502, 503), (name, stream, answer.status, answer.body[:300])
        assert answer.headers["content-type"] == "application/json", (name, stream)
        assert set(json.loads(answer.body)["error"]) >= {"message", "type", "param", "code"}, (name, stream)
    assert (last.status, ready) == (200, 200)
    assert peak < 64
    record_property("B23", f"{len(MALFORMED)} kinds, plain and streamed: JSON errors; peak {peak:.0f} MiB")


@pytest.mark.parametrize("words", [1, 3, 20])
@pytest.mark.parametrize("cut", ["end", "reset", "silence"])
def test_b03_b22_a_stream_that_is_cut_is_told_and_never_sent_again(tmp_path, record_property, cut, words):
    async def scenario(gateway, nodes):
        connection = await asyncio.open_connection("127.0.0.1", gateway.port)
        answer = await ask(connection, gateway.port, "failover", time.monotonic(), stream=True)
        connection[1].close()
        return answer, sum(len(node.chats) for node in nodes)

    node = {"words": words, "cut": cut}
    settings = "stream_idle_timeout_seconds = 1"
    answer, sent = run(tmp_path, scenario, nodes=2, strategies=["failover"], settings=settings, node=node)
    record_property("B03/B22", f"{cut} after {words}: told after {answer.latency:.2f} s")
    told = answer.body.decode()
    assert all(f"word{number} " in told for number in range(words)), told
    assert told.count('"error":{') == 1 and "[DONE]" not in told and '"finish_reason":"' not in told, told
    assert sent == 1
    assert answer.latency < 2.5
