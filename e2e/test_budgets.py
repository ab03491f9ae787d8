"""Budgets on a real server: how many of many at once pass, what stays reserved, and who is told."""

import base64
import hashlib
import hmac
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from harness.gateway import DEMO_PROVIDER, TOKEN, USERS, Gateway, model
from harness.local import LocalServer

#: A user with a budget, in the team whose tag has one.
BUDGETED = "e2e-token-of-the-user-with-a-budget"
SECRET = "e2e-secret-of-the-receiver"


class Receiver(LocalServer):
    """Keeps what it is told; answers each status in turn, then 204."""

    def __init__(self, *statuses: int):
        self.got: list[tuple[dict, bytes]] = []
        waiting, receiver = list(statuses), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(waiting.pop(0) if waiting else 204)
                self.send_header("content-length", "0")
                self.end_headers()

        super().__init__(Handler)
        self.url += "/hook"


@pytest.fixture
def receiver():
    # The first message is refused once, so that it comes again.
    receiver = Receiver(503)
    yield receiver
    receiver.stop()


def config(budget: str, more: str = "") -> str:
    """Every request of the model costs exactly a cent."""
    user = f'[users.budgeted]\nname = "Budgeted"\ntoken = "{BUDGETED}"\ntags = ["team"]\n[users.budgeted.budget]\n{budget}\n'
    price = "request_price = 0.01\n"
    return USERS + user + DEMO_PROVIDER + model("demo-model", "demo", "demo-model") + price + more


def chat(gateway: Gateway) -> int:
    return gateway.chat("demo-model", token=BUDGETED).status


def amount(gateway: Gateway, query: str) -> dict:
    (row,) = gateway.request("GET", f"/admin/budgets?{query}", token=TOKEN).json()["budgets"]
    return row


def test_of_500_requests_at_once_against_a_budget_for_20_exactly_20_pass(start):
    gateway = start(config("usd_per_day = 0.2", "[tags.team.budget]\nusd_total = 100\n"))
    with ThreadPoolExecutor(100) as pool:
        statuses = list(pool.map(lambda _: chat(gateway), range(500)))
    assert {status: statuses.count(status) for status in set(statuses)} == {200: 20, 429: 480}
    of_user, of_tag = amount(gateway, "user=budgeted"), amount(gateway, "tag=team")
    assert (of_user["spent_usd"], of_user["reserved_usd"]) == ("0.2", "0")
    assert (of_tag["spent_usd"], of_tag["reserved_usd"]) == ("0.2", "0")
    refused = gateway.chat("demo-model", token=BUDGETED)
    assert refused.error(429)["code"] == "budget_exceeded"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400


def test_thresholds_are_told_once_each_signed_and_again_where_they_were_not_taken(start, receiver):
    hook = f'[budget_webhook]\nurl = "{receiver.url}"\nsecret = "{SECRET}"\n'
    gateway = start(config("usd_total = 0.1", hook))
    assert [chat(gateway) for _ in range(12)] == [200] * 10 + [429] * 2
    deadline = time.monotonic() + 20
    while len(receiver.got) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    for headers, body in receiver.got:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        signature = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        assert headers["webhook-signature"] == f"v1,{signature}"
        assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    messages = [json.loads(body)["data"] for _, body in receiver.got]
    assert [message["percent"] for message in messages] == [50, 50, 80, 100], "the first was refused once"
    ids = [headers["webhook-id"] for headers, _ in receiver.got]
    assert ids[0] == ids[1] and len(set(ids)) == 3
    assert (messages[0]["user"], messages[0]["period"]) == ("budgeted", "total")
    assert [message["spent_usd"] for message in messages] == ["0.05", "0.05", "0.08", "0.1"]
    page = gateway.request("GET", "/prometheus").body.decode()
    assert 'berry_budget_webhooks_total{result="sent"} 3' in page
    assert SECRET not in gateway.log_path.read_text() and receiver.url not in gateway.log_path.read_text()


def test_a_receiver_that_is_away_delays_no_request(start):
    hook = f'[budget_webhook]\nurl = "http://127.0.0.1:9/hook"\nsecret = "{SECRET}"\n'
    gateway = start(config("usd_total = 0.1", hook))
    began = time.monotonic()
    assert [chat(gateway) for _ in range(10)] == [200] * 10
    assert time.monotonic() - began < 5


def test_a_redirect_is_followed_nowhere_and_the_next_message_is_sent_all_the_same(start):
    receiver = Receiver(302)
    gateway = start(config("usd_total = 0.1", f'[budget_webhook]\nurl = "{receiver.url}"\nsecret = "{SECRET}"\n'))
    assert [chat(gateway) for _ in range(10)] == [200] * 10
    told = lambda result, count: f'berry_budget_webhooks_total{{result="{result}"}} {count}' in gateway.request("GET", "/prometheus").body.decode()
    gateway.wait_for(lambda: told("sent", 2) and told("failed", 1), 10, "two of three are taken")
    assert [json.loads(body)["data"]["percent"] for _, body in receiver.got] == [50, 80, 100]
    receiver.stop()


def test_a_receiver_that_never_answers_delays_neither_requests_nor_the_end(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/hook"
        gateway = Gateway(config("usd_total = 0.1", f'[budget_webhook]\nurl = "{url}"\nsecret = "{SECRET}"\n'), tmp_path)
        assert [chat(gateway) for _ in range(10)] == [200] * 10
        silent.settimeout(10)
        connection, _ = silent.accept()
        gateway.process.terminate()
        assert gateway.exit_code(within=8) == 0
        connection.close()


def test_what_was_spent_counts_again_after_a_kill_and_no_threshold_is_told_twice(tmp_path, receiver):
    hook = f'[budget_webhook]\nurl = "{receiver.url}"\nsecret = "{SECRET}"\n[tags.team.budget]\nusd_total = 100\n'
    text = config("usd_per_day = 0.05\nusd_per_month = 1", hook)
    gateway = Gateway(text, tmp_path)
    assert [chat(gateway) for _ in range(6)] == [200] * 5 + [429]
    gateway.wait_for(lambda: len(receiver.got) == 4, 20, "all thresholds, one of them twice")
    gateway.process.kill()
    gateway.process.wait()
    gateway = Gateway(text, tmp_path)
    assert chat(gateway) == 429, "the first request after the start"
    rows = gateway.request("GET", "/admin/budgets?user=budgeted", token=TOKEN).json()["budgets"]
    assert {row["period"]: row["spent_usd"] for row in rows} == {"day": "0.05", "month": "0.05"}
    assert amount(gateway, "tag=team")["spent_usd"] == "0.05"
    gateway.stop()
    assert "what was spent before the start counts" in gateway.log_path.read_text()
    gateway = Gateway(text.replace("usd_per_day = 0.05", "usd_per_day = 0.06"), tmp_path)
    assert [chat(gateway) for _ in range(2)] == [200, 429], "a larger amount has room for what it is larger by"
    gateway.wait_for(lambda: len(receiver.got) == 5, 20, "that all of the new amount is used up is new, and nothing else")
    gateway.stop()
    assert json.loads(receiver.got[-1][1])["data"]["limit_usd"] == "0.06"


def test_without_a_ledger_a_start_begins_with_nothing_spent(tmp_path):
    text = config("usd_per_day = 0.01", '[ledger]\nbackend = "off"\n')
    for _ in range(2):
        gateway = Gateway(text, tmp_path)
        assert [chat(gateway) for _ in range(2)] == [200, 429]
        gateway.stop()
        assert "there is no ledger" in gateway.log_path.read_text()
