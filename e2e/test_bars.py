"""What clients notice of failing upstreams, over real processes and sockets, with figures. `docs/reliability.md` has the table.

`BERRY_E2E_FULL=1` makes the loads five times as long.
"""

import asyncio
import os
import time

import pytest

from harness.fleet import Fleet, ask, config, load, percentile
from harness.gateway import Gateway

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
    down = percentile([answer.latency for answer in answers if answer.at >= killed], 0.99)
    record_property("B01", f"{len(answers)} requests, {len(errors(answers))} errors, p99 while down {down:.1f} ms")
    assert errors(answers) == []
    assert down < 250


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


def test_b18_an_outage_of_all_upstreams_is_not_amplified(tmp_path, record_property):
    async def scenario(gateway, nodes):
        began = time.monotonic()
        answers = await load(gateway.port, 100, 8 * LONGER)
        sent = sum(len(node.chats) for node in nodes)
        # Counted by request: an attempt that is made within the window may belong to a request before it.
        attempts = [(answer.at - began, int(answer.headers["x-berry-attempts"])) for answer in answers]
        assert sent == sum(number for _, number in attempts), "what was sent is what was told"
        steady = [number for at, number in attempts if at >= 3]
        return answers, sent / len(answers), sum(steady) / len(steady)

    # The circuits stay closed, so that nothing but the retry budget limits the attempts.
    settings = "circuit_breaker_failure_threshold = 1000000"
    answers, overall, late = run(tmp_path, scenario, settings=settings, node={"failing": 1.0})
    record_property("B18", f"{len(answers)} requests, {overall:.3f} attempts each, {late:.3f} in steady state")
    assert {answer.status for answer in answers} <= {500, 502, 503}
    assert late <= 1.2
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
