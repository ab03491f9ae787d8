"""Clients that leave: the upstream learns it at once, in every phase, and nothing stays counted as being in flight."""

import asyncio
import itertools
import resource

import h2.connection
import h2.errors
import pytest

from harness.gateway import TOKEN, Gateway
from harness.upstream import CALLS, PHASES, Upstream, config
from harness.wire import Client, chat_body, request

pytestmark = pytest.mark.alone

CLIENTS = 1000
#: Clients that leave at the same moment. All of them are measured against one clock in one thread; a pause of the machine falls on
#: these and no others.
WAVE = 8
#: For 99 of 100.
LIMIT_MS = 100


async def leave_in_waves(gateway: Gateway, upstream: Upstream) -> list[float]:
    """Opens all clients, then lets them leave; the time in ms from each leaving to the upstream's seeing it."""
    loop = asyncio.get_running_loop()
    combinations = itertools.cycle((call, kind, phase) for call in CALLS for kind in call.kinds for phase in PHASES)
    exchanges = [upstream.announce(kind, phase, number, call) for number, (call, kind, phase) in zip(range(CLIENTS), combinations)]

    async def open_one(exchange) -> Client:
        call = exchange.call
        body = call.body("scripted", exchange.script, exchange.kind == "streamed")
        client = await Client.send_request(gateway.port, request(gateway.port, call.path, body))
        await exchange.reached.wait()
        if exchange.kind == "streamed" and exchange.phase == "mid-body":
            await client.read_until(b"first ")
        return client

    clients = []
    for start in range(0, CLIENTS, 100):
        clients += await asyncio.gather(*(open_one(exchange) for exchange in exchanges[start : start + 100]))
    assert gateway.in_flight() == CLIENTS

    delays = []
    for start in range(0, CLIENTS, WAVE):
        wave = list(zip(clients, exchanges))[start : start + WAVE]
        left_at = []
        for client, exchange in wave:
            client.leave(reset=exchange.number % 2 == 1)
            left_at.append(loop.time())
        await asyncio.wait_for(asyncio.gather(*(exchange.closed.wait() for _, exchange in wave)), 5)
        delays += [(exchange.closed_at - at) * 1000 for at, (_, exchange) in zip(left_at, wave)]
    assert {exchange.asked for exchange in exchanges} == {1}, "nothing is sent again for nobody"
    return delays


def test_b05_b06_a_thousand_clients_that_leave_are_noticed_upstream_within_100_ms(tmp_path, record_property):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def main() -> list[float]:
        async with Upstream() as upstream:
            gateway = Gateway(config(upstream.url), tmp_path)
            try:
                delays = await asyncio.wait_for(leave_in_waves(gateway, upstream), 60)
                gateway.wait_for(lambda: gateway.in_flight() == 0, 2, "no request in flight")
            finally:
                gateway.stop()
            return delays

    delays = sorted(asyncio.run(main()))
    median, p99, worst = delays[len(delays) // 2], delays[len(delays) * 99 // 100], delays[-1]
    figures = f"median {median:.1f}, p99 {p99:.1f}, worst {worst:.1f}"
    record_property(f"ms from a client's leaving to the upstream's seeing it, {len(delays)} clients:", figures)
    assert len(delays) == CLIENTS
    assert p99 < LIMIT_MS, figures


async def leave_over_http2(gateway: Gateway, upstream: Upstream) -> list[float]:
    """One HTTP/2 connection with many requests: half of them are reset one by one, then the connection ends."""
    loop = asyncio.get_running_loop()
    combinations = itertools.product(("plain", "streamed"), PHASES, range(16))
    exchanges = [upstream.announce(kind, phase, number) for kind, phase, number in combinations]
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    streams = []
    for exchange in exchanges:
        stream = connection.get_next_available_stream_id()
        body = chat_body("scripted", exchange.script, exchange.kind == "streamed")
        names = {":method": "POST", ":path": "/v1/chat/completions", ":scheme": "http", ":authority": gateway.address}
        names |= {"authorization": f"Bearer {TOKEN}", "content-type": "application/json", "content-length": str(len(body))}
        connection.send_headers(stream, list(names.items()))
        connection.send_data(stream, body, end_stream=True)
        streams.append(stream)
    writer.write(connection.data_to_send())
    await asyncio.wait_for(asyncio.gather(*(exchange.reached.wait() for exchange in exchanges)), 10)

    half = len(exchanges) // 2
    left_at = []
    for stream in streams[::2]:
        connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        writer.write(connection.data_to_send())
        left_at.append(loop.time())
    await asyncio.wait_for(asyncio.gather(*(exchange.closed.wait() for exchange in exchanges[::2])), 5)
    assert not any(exchange.closed.is_set() for exchange in exchanges[1::2]), "the other streams go on"
    delays = [(exchange.closed_at - at) * 1000 for at, exchange in zip(left_at, exchanges[::2], strict=True)]

    writer.transport.abort()
    at = loop.time()
    await asyncio.wait_for(asyncio.gather(*(exchange.closed.wait() for exchange in exchanges[1::2])), 5)
    delays += [(exchange.closed_at - at) * 1000 for exchange in exchanges[1::2]]
    assert len(delays) == 2 * half
    return delays


def test_requests_reset_on_one_http2_connection_are_noticed_upstream_within_100_ms(tmp_path, record_property):
    async def main() -> list[float]:
        async with Upstream() as upstream:
            gateway = Gateway(config(upstream.url), tmp_path)
            try:
                delays = await leave_over_http2(gateway, upstream)
                gateway.wait_for(lambda: gateway.in_flight() == 0, 2, "no request in flight")
            finally:
                gateway.stop()
            return delays

    delays = asyncio.run(main())
    record_property(f"ms from a reset to the upstream's seeing it, {len(delays)} requests: worst", f"{max(delays):.1f}")
    assert max(delays) <= LIMIT_MS


def test_clients_that_leave_while_they_still_send_leave_nothing_in_flight(tmp_path):
    gateway = Gateway(config("http://127.0.0.1:9"), tmp_path)
    try:
        unfinished = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer e2e-token-that-may-use-everything\r\n"
            b'content-length: 100000\r\ncontent-type: application/json\r\n\r\n{"model":"scripted",'
        )
        connections = [gateway.connect() for _ in range(100)]
        for number, connection in enumerate(connections):
            # Within the request line, within the headers, after the headers, within the body.
            cut = (5, 60, unfinished.index(b"\r\n\r\n") + 4, len(unfinished))[number % 4]
            connection.sendall(unfinished[:cut])
        for connection in connections:
            connection.close()
        gateway.wait_for(lambda: gateway.in_flight() == 0, 2, "no request in flight")
    finally:
        gateway.stop()
