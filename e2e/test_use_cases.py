"""The four ways of docs/use-cases.md, each with the page's own configuration over demo providers."""

import re
from collections import Counter

import pytest

from harness.gateway import TOKEN
from harness.paths import ROOT

PAGE = (ROOT / "docs" / "use-cases.md").read_text()
ADMIN = f'[users.tester]\ntoken = "{TOKEN}"\ntags = ["admin"]\n'


def config(heading: str, **failing: float) -> str:
    """The block below a heading, with a demo provider for each that it names; those in `failing` fail as often as it says."""
    shown = re.search(rf"^## {heading}$.*?^```toml\n(.*?)^```", PAGE, re.M | re.S)[1]
    names = dict.fromkeys(re.findall(r'^provider = "(\w+)"', shown, re.M))
    demo = "demo = {{ first_token_latency_ms = 1, token_latency_ms = 0, failure_rate = {} }}\nhealth_check = \"off\"\n"
    providers = "".join(f'[providers.{name}]\nbackend_type = "demo"\n' + demo.format(float(failing.get(name, 0))) for name in names)
    return shown + ADMIN + providers


def providers(gateway, model: str, times: int, token: str = TOKEN) -> Counter:
    answers = [gateway.chat(model, token=token) for _ in range(times)]
    assert {answer.status for answer in answers} == {200}, [answer.body for answer in answers if answer.status != 200]
    return Counter(answer.headers["x-berry-provider"] for answer in answers)


def test_departments_have_their_models_limits_and_backends(start):
    gateway = start(config("Departments of a company"))
    hr, research = "token-of-the-department-hr", "token-of-the-department-research"
    gateway.chat("frontier", token=hr).error(403)
    gateway.chat("office", token=research).error(403)
    assert providers(gateway, "frontier", 1, research) == {"dear": 1}
    assert providers(gateway, "shared", 8, research) == {"dear": 8}
    assert providers(gateway, "shared", 5, hr) == {"cheap": 5}
    refused = gateway.chat("shared", token=hr)
    refused.error(429)
    assert int(refused.headers["retry-after"]) > 0


def test_a_start_up_pays_little_and_is_served_when_the_cheap_one_fails(start):
    heading = "A start-up that watches its costs"
    shares = providers(start(config(heading)), "assistant", 300)
    assert shares["cheap"] > 200, shares
    assert providers(start(config(heading, cheap=1)), "assistant", 40)["dear"] == 40


@pytest.mark.parametrize("lost", ["first_cloud", "second_cloud", "third_cloud"])
def test_the_loss_of_a_cloud_is_seen_by_nobody(start, lost):
    shares = providers(start(config("Several clouds", **{lost: 1})), "everywhere", 60)
    assert lost not in shares and len(shares) == 2, shares


def test_a_team_gets_the_backends_in_turn(start):
    assert providers(start(config("A team that compares models")), "bench", 20) == {"one": 10, "other": 10}
