"""A hundred reloads under load: no request notices, each is in force within a second, health and limits stay."""

import asyncio
import json
import signal
import time

import pytest

from harness import upstream
from harness.gateway import DEMO_PROVIDER, TOKEN, Gateway, model

RELOADS = 100
STREAMS = 50
#: Requests a second, over so many connections.
RATE, CONNECTIONS = 300, 20
LIMITED_TOKEN = "e2e-token-with-three-requests-an-hour"

LIMITED = f"""
[users.limited]
name = "Limited"
token = "{LIMITED_TOKEN}"
[users.limited.rate_limit]
requests_per_hour = 3
"""

#: Nothing listens there; three failures open its circuit for longer than the test takes.
BROKEN = """
[settings]
circuit_breaker_failure_threshold = 3
circuit_breaker_timeout_seconds = 600
max_retries = 0
[providers.broken]
name = "Broken"
base_url = "http://127.0.0.1:9/v1"
models = []
health_check = "off"
"""


def config(url: str, number: int) -> str:
    models = model("demo-model", "demo", "demo-model") + model("broken-model", "broken", "broken-upstream")
    return upstream.config(url) + LIMITED + BROKEN + DEMO_PROVIDER + models + model(f"generation-{number}", "demo", "demo-model")


def head(path: str, body: bytes, token: str = TOKEN) -> bytes:
    lines = f"POST {path} HTTP/1.1\r\nhost: e2e\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n"
    return lines.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def chat_body(name: str, text: str, stream: bool) -> bytes:
    return json.dumps({"model": name, "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()


async def load(gateway: Gateway, done: asyncio.Event, statuses: list[int]) -> None:
    """One connection's share of the load, by the clock: a slow answer delays nobody but itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    request = head("/v1/chat/completions", chat_body("demo-model", "hello", False))
    due = time.monotonic()
    while not done.is_set():
        writer.write(request)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        length = next(int(line.split(b":")[1]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
        statuses.append(int(answer.split(b" ")[1]))
        due += CONNECTIONS / RATE
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    writer.close()


async def stream(gateway: Gateway, exchange: upstream.Exchange) -> bytes:
    """One stream, read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head("/v1/chat/completions", chat_body("scripted", exchange.script, True)))
    answer = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 300)
    writer.close()
    return answer


def ask(gateway: Gateway, name: str, token: str = TOKEN) -> int:
    return gateway.chat(name, token=token).status


def circuit(gateway: Gateway) -> str:
    report = gateway.request("GET", "/admin/backend-health", token=TOKEN).json()
    return report["backend_health"]["broken_model"]["backends"][0]["circuit"]


def trigger(gateway: Gateway, number: int) -> None:
    """Every way to reload: the file's change alone, a signal, the admin API."""
    if number % 3 == 1:
        gateway.process.send_signal(signal.SIGHUP)
    elif number % 3 == 2:
        answer = gateway.request("POST", "/admin/reload-config", {}, TOKEN)
        assert answer.status == 200, answer.body


def reload(gateway: Gateway, path, url: str, number: int) -> float:
    """Puts another configuration in force and returns how long that took."""
    began = time.monotonic()
    path.write_text(config(url, number))
    trigger(gateway, number)
    while gateway.request("GET", f"/v1/models/generation-{number}", token=TOKEN).status != 200:
        assert time.monotonic() - began < 10, f"reload {number} is not in force; log:\n{gateway.log()}"
        time.sleep(0.01)
    return time.monotonic() - began


def refuse_bad_file(gateway: Gateway, path, url: str, number: int) -> None:
    """A file with a mistake changes nothing, and the reply says where the mistake is."""
    good = config(url, number)
    wrong = good.replace('name = "demo-model"', 'nam = "demo-model"', 1)
    line = wrong[: wrong.index("nam = ")].count("\n") + 1
    path.write_text(wrong)
    answer = gateway.request("POST", "/admin/reload-config", {}, TOKEN)
    assert 400 <= answer.status < 500 and f":{line}:1" in answer.body.decode(), answer.body
    assert gateway.request("GET", f"/v1/models/generation-{number}", token=TOKEN).status == 200
    assert ask(gateway, "demo-model") == 200
    path.write_text(good)


@pytest.mark.alone
def test_a_hundred_reloads_under_load_disturb_nothing(start, record_property):
    async def run() -> None:
        async with upstream.Upstream() as slow:
            gateway = start(config(slow.url, 0))
            path = gateway.log_path.parent / "gateway.toml"
            assert [ask(gateway, "demo-model", LIMITED_TOKEN) for _ in range(3)] == [200] * 3
            assert all(ask(gateway, "broken-model") >= 500 for _ in range(4)) and circuit(gateway) == "open"

            exchanges = [slow.announce("streamed", "mid-body", number) for number in range(STREAMS)]
            streams = [asyncio.create_task(stream(gateway, exchange)) for exchange in exchanges]
            await asyncio.gather(*(asyncio.wait_for(exchange.reached.wait(), 30) for exchange in exchanges))
            done, statuses = asyncio.Event(), []
            loads = [asyncio.create_task(load(gateway, done, statuses)) for _ in range(CONNECTIONS)]
            began = time.monotonic()
            times = []
            for number in range(1, RELOADS + 1):
                times.append(await asyncio.to_thread(reload, gateway, path, slow.url, number))
                if number % 25 == 0:
                    await asyncio.to_thread(refuse_bad_file, gateway, path, slow.url, number)
            rate = len(statuses) / (time.monotonic() - began)
            done.set()
            await asyncio.gather(*loads)
            for exchange in exchanges:
                exchange.release.set()
            answers = await asyncio.gather(*streams)

            assert set(statuses) == {200}, {status: statuses.count(status) for status in set(statuses)}
            assert all(b"last" in answer and b"[DONE]" in answer and b"error" not in answer for answer in answers)
            assert rate > 0.9 * RATE, rate
            # Nine of ten: a pause of the machine falls on a few.
            assert sorted(times)[RELOADS * 9 // 10] < 1.0, sorted(times)
            assert ask(gateway, "demo-model", LIMITED_TOKEN) == 429
            assert circuit(gateway) == "open"
            record_property("requests", f"{len(statuses)} at {rate:.0f} a second")
            record_property("reload in force, s", f"median {sorted(times)[RELOADS // 2]:.3f}, longest {max(times):.3f}")

    asyncio.run(run())
