"""SIGTERM lets what was begun finish and ends with exit code 0; a second signal ends at once."""

import asyncio
import os
import signal

import pytest

from harness.gateway import DEMO, Gateway, parse_response
from harness.upstream import PHASES, PLAIN_BODY, STREAM_END, STREAM_START, Upstream, config
from harness.wire import Client

STREAMS = 100
PLAIN = 20


async def open_clients(gateway: Gateway, upstream: Upstream, streams: int, plain: int):
    """Clients whose answers are held by the upstream: streams after their first event, plain ones in every phase."""
    exchanges = [upstream.announce("streamed", "mid-body", number) for number in range(streams)]
    exchanges += [upstream.announce("plain", PHASES[number % len(PHASES)], number) for number in range(plain)]

    async def open_one(exchange) -> Client:
        client = await Client.send(gateway.port, "scripted", exchange.script, exchange.kind == "streamed")
        await exchange.reached.wait()
        if exchange.kind == "streamed":
            await client.read_until(b"first ")
        return client

    return exchanges, await asyncio.gather(*(open_one(exchange) for exchange in exchanges))


def dechunk(raw: bytes) -> bytes:
    """The body of a chunked HTTP/1.1 answer, which must be complete."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            assert rest == b"\r\n"
            return body
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]


async def drain(directory, stop_signal: signal.Signals) -> None:
    async with Upstream() as upstream:
        gateway = Gateway(config(upstream.url), directory)
        exchanges, clients = await open_clients(gateway, upstream, STREAMS, PLAIN)
        idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(6)]
        for reader, writer in idle[:3]:
            writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        assert gateway.in_flight() == STREAMS + PLAIN

        gateway.process.send_signal(stop_signal)
        gateway.wait_for(gateway.refuses_connections, 5, "new connections are refused")
        for reader, _ in idle:
            rest = await asyncio.wait_for(reader.read(), 5)
            assert b"HTTP/1.1" not in rest, "an idle connection, used before or not, is closed without a word"
        assert gateway.exit_code(within=0) is None, "nothing ends while requests are in flight"

        for exchange in exchanges:
            exchange.release.set()
        answers = await asyncio.wait_for(asyncio.gather(*(client.read_to_end() for client in clients)), 20)
        for exchange, raw in zip(exchanges, answers, strict=True):
            if exchange.kind == "plain":
                answer = parse_response(raw)
                assert (answer.status, answer.body) == (200, PLAIN_BODY), exchange.script
            else:
                assert raw.startswith(b"HTTP/1.1 200 ") and dechunk(raw) == STREAM_START + STREAM_END, exchange.script
        assert gateway.exit_code(within=5) == 0, gateway.log()


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_open_streams_and_plain_requests_all_finish_and_the_exit_code_is_0(tmp_path, stop_signal):
    asyncio.run(drain(tmp_path, stop_signal))


def test_a_read_that_hangs_does_not_hold_up_the_end(tmp_path):
    settings = "[server]\nshutdown_grace_seconds = 1\n" + DEMO
    gateway = Gateway(settings, tmp_path)
    # Like a file on a network file system that is gone: whoever reads it waits for ever.
    hanging = tmp_path / "hanging.pem"
    os.mkfifo(hanging)
    provider = f'[providers.far]\nname = "far"\nbase_url = "https://127.0.0.1:1"\napi_key = "k"\nmodels = []\nca_file = "{hanging}"\n'
    (tmp_path / "gateway.toml").write_text(settings + provider)

    def reader_waits() -> int | None:
        try:
            return os.open(hanging, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    gateway.process.send_signal(signal.SIGHUP)
    writer = gateway.wait_for(reader_waits, 10, "the file is being read")
    try:
        assert gateway.chat("demo-model").status == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.exit_code(within=15) == 0, gateway.log()
    finally:
        gateway.process.kill()
        os.close(writer)


def test_a_hangup_while_the_server_starts_is_a_reload_and_no_end(tmp_path):
    gateway = Gateway(DEMO, tmp_path, wait=False)
    try:
        # The port is open long before the first connection is taken.
        gateway.wait_for(lambda: not gateway.refuses_connections(), 10, "the port is open")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for(lambda: "cause=signal" in gateway.log(), 10, "it is read again")
        assert gateway.chat("demo-model").status == 200
    finally:
        gateway.stop()


def test_a_second_signal_ends_at_once(tmp_path):
    async def main() -> None:
        async with Upstream() as upstream:
            gateway = Gateway(config(upstream.url), tmp_path)
            await open_clients(gateway, upstream, 3, 3)
            gateway.process.send_signal(signal.SIGTERM)
            gateway.wait_for(gateway.refuses_connections, 5, "new connections are refused")
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.exit_code(within=2) is not None

    asyncio.run(main())


def test_requests_still_running_after_the_grace_do_not_hold_the_process(tmp_path):
    async def main() -> None:
        async with Upstream() as upstream:
            gateway = Gateway("[server]\nshutdown_grace_seconds = 1\n" + config(upstream.url), tmp_path)
            await open_clients(gateway, upstream, 3, 3)
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.exit_code(within=6) is not None

    asyncio.run(main())


def test_an_idle_gateway_stops_at_once(tmp_path):
    gateway = Gateway(config("http://127.0.0.1:9"), tmp_path)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.exit_code(within=3) == 0, gateway.log()
