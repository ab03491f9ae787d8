"""Waiting for a place at a full backend, on a real server."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness.gateway import DEMO_PROVIDER, TOKEN, USERS, Gateway, model

SLOW = DEMO_PROVIDER.replace("first_token_latency_ms = 5", "first_token_latency_ms = 500")


def config(queue: str) -> str:
    """Two places."""
    pool = model("demo-model", "demo", "demo-model").replace('strategy = "round_robin"\n', f'strategy = "round_robin"\n{queue}\n')
    return USERS + SLOW + pool + "max_concurrent = 2\n"


def figure(gateway: Gateway, name: str) -> float:
    page = gateway.request("GET", "/prometheus").body.decode()
    (line,) = (line for line in page.splitlines() if line.startswith(name + " "))
    return float(line.rsplit(" ", 1)[1])


def leave_in_line(gateway: Gateway) -> socket.socket:
    """A client that asks and will not wait for its answer."""
    body = json.dumps({"model": "demo-model", "messages": [{"role": "user", "content": "x"}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n"
    client = socket.create_connection(("127.0.0.1", gateway.port))
    client.sendall(f"{head}content-type: application/json\r\n\r\n{body}".encode())
    return client


def test_requests_wait_for_a_place_and_who_leaves_does_not_take_one(start):
    gateway = start(config("queue_timeout_ms = 20000"))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(gateway.chat("demo-model").status)) for _ in range(6)]
    for thread in threads:
        thread.start()
    waiting = 'berry_queue_requests{model="demo-model"}'
    gateway.wait_for(lambda: figure(gateway, waiting) == 4, 5, "four wait")
    client = leave_in_line(gateway)
    gateway.wait_for(lambda: figure(gateway, 'berry_queue_ends_total{model="demo-model",result="left"}') == 0, 1, "it stays")
    client.close()
    for thread in threads:
        thread.join()
    assert answers == [200] * 6
    gateway.wait_for(lambda: figure(gateway, waiting) == 0, 5, "nobody waits")
    assert figure(gateway, 'berry_queue_ends_total{model="demo-model",result="served"}') == 4


def test_without_the_key_and_after_its_time_a_full_backend_refuses(start):
    for queue, least in (("", 0.0), ("queue_timeout_ms = 100", 0.1)):
        gateway = start(config(queue))

        def ask(_, gateway=gateway) -> tuple[int, float]:
            began = time.monotonic()
            return gateway.chat("demo-model").status, time.monotonic() - began

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, range(6)))
        assert sorted(status for status, _ in answers) == [200] * 2 + [503] * 4, answers
        assert all(took >= least for status, took in answers if status == 503)
