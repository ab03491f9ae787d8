"""Several gateways that share limits, keys and circuits through a real Redis server, and what happens without it."""

import pytest

from harness.gateway import DEMO_PROVIDER, TOKEN, USERS, Gateway, model
from harness.store import Store, Wire

#: The token of a user whose limits are shared.
SHARED = "e2e-token-of-the-user-with-limits"


def config(url: str, limits: str, *more: str) -> str:
    user = f'[users.shared]\nname = "Shared"\ntoken = "{SHARED}"\n[users.shared.rate_limit]\n{limits}\n'
    cluster = f'[cluster]\nredis_url = "{url}"\n' + "".join(f"{line}\n" for line in more)
    return USERS + user + DEMO_PROVIDER + model("demo-model", "demo", "demo-model") + cluster


def chat(gateway: Gateway) -> int:
    return gateway.chat("demo-model", token=SHARED).status


def cluster(gateway: Gateway) -> dict:
    return gateway.request("GET", "/health").json()["cluster"]


def await_cluster(gateway: Gateway, **expect) -> None:
    gateway.wait_for(lambda: expect.items() <= cluster(gateway).items(), 10, f"cluster {expect}, is {cluster(gateway)}")


@pytest.fixture(scope="module")
def store():
    store = Store()
    yield store
    store.stop()


@pytest.fixture
def own_store():
    store = Store()
    yield store
    store.stop()


@pytest.fixture
def instances(start):
    """Starts gateways that share a store, and waits until they know of each other."""

    def start_all(count: int, urls, limits: str, *more: str) -> list[Gateway]:
        urls = [urls] * count if isinstance(urls, str) else urls
        gateways = [start(config(url, limits, *more)) for url in urls]
        for gateway in gateways:
            await_cluster(gateway, status="connected", instances=count)
        return gateways

    return start_all


def test_thirty_a_minute_over_three_instances_are_thirty_wherever_they_come(store, instances):
    gateways = instances(3, store.url, "requests_per_minute = 30", 'key_prefix = "spread"')
    statuses = [chat(gateways[number % 3]) for number in range(60)]
    assert 27 <= statuses.count(200) <= 30, statuses
    assert set(statuses) == {200, 429}


def test_thirty_a_minute_are_thirty_when_all_come_to_one_instance(store, instances):
    gateways = instances(3, store.url, "requests_per_minute = 30", 'key_prefix = "one"')
    statuses = [chat(gateways[0]) for _ in range(40)]
    assert statuses.count(200) == 30, statuses
    refused = gateways[1].chat("demo-model", token=SHARED)
    assert refused.error(429)["code"] == "rate_limit_exceeded"
    assert 30 < int(refused.headers["retry-after"]) <= 61, refused.headers


def test_a_gateway_starts_without_its_store_and_finds_it_later(own_store, start):
    own_store.stop()
    gateway = start(config(own_store.url, "requests_per_minute = 30", "instances = 3"))
    assert cluster(gateway)["status"] == "away" and cluster(gateway)["reason"]
    # Its share of the limit.
    assert [chat(gateway) for _ in range(12)].count(200) == 10
    own_store.start()
    await_cluster(gateway, status="connected", instances=1)
    assert chat(gateway) == 200
