"""The dashboard in a real browser, against a real gateway on the demo upstream."""

import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from harness.gateway import DEMO, NARROW_TOKEN, TOKEN

#: Without these, Chromium calls home where it can and floods a closed network with tries where it cannot.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def gateway(start):
    return start(DEMO)


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "install Debian's chromium; .ci/run does"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context()
    page = context.new_page()
    page.problems = []
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    context.close()


def sign_in(page, gateway, token=TOKEN, name="Overview"):
    page.goto(f"{gateway.url}/dashboard#{name}")
    page.get_by_label(re.compile("Token of a user")).fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_the_page_is_open_and_guarded_and_unknown_paths_below_it_are_404(gateway):
    for path in ("/dashboard", "/status"):
        answer = gateway.request("GET", path)
        assert answer.status == 200 and answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY"
    assert gateway.request("GET", "/dashboard/app.js").headers["content-type"].startswith("text/javascript")
    for path in ("/dashboard/nothing", "/status/nothing"):
        assert gateway.request("GET", path).status == 404


def test_nothing_is_shown_without_an_admins_token(page, gateway):
    page.goto(f"{gateway.url}/dashboard")
    expect(page.get_by_text("Administrators only")).to_be_visible()
    assert page.get_by_role("table").count() == 0
    sign_in(page, gateway, NARROW_TOKEN)
    expect(page.get_by_text(re.compile("needs the token of an administrator"))).to_be_visible()


def test_the_overview_shows_health_and_figures(page, gateway):
    gateway.chat("demo-model")
    sign_in(page, gateway)
    expect(page.get_by_role("table", name="Providers")).to_contain_text("demo")
    expect(page.get_by_text("requests in flight")).to_be_visible()
    assert page.problems == []
    assert page.evaluate("sessionStorage.length") == 1 and page.evaluate("localStorage.length") == 0
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("Administrators only")).to_be_visible()


def test_the_keyboard_alone_signs_in_and_finds_its_way(page, gateway):
    page.goto(f"{gateway.url}/dashboard")
    expect(page.get_by_label(re.compile("Token of a user"))).to_be_focused()
    page.keyboard.type("not-a-token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not known here")
    page.get_by_label(re.compile("Token of a user")).focus()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("main", name="Overview")).to_be_focused()
    assert page.title() == "Overview · Berry API"
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Models").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main", name="Models")).to_be_focused()
    # A button says what it is for without its row.
    expect(page.get_by_role("button", name="drain demo: demo-model")).to_be_visible()


def test_a_page_that_shows_itself_anew_takes_nothing_from_its_reader(page, gateway):
    sign_in(page, gateway, name="Configuration")
    page.get_by_text("The configuration as it is written").click()
    generation = page.locator(".figure", has_text="generation").locator("strong")
    before = generation.inner_text()
    page.get_by_role("button", name="reload now").focus()
    assert gateway.request("POST", "/admin/reload-config", token=TOKEN).status == 200
    expect(generation).not_to_have_text(before, timeout=15_000)
    expect(page.get_by_role("button", name="reload now")).to_be_focused()
    expect(page.locator("details pre")).to_be_visible()


def test_a_backend_is_drained_and_enabled_from_the_page(page, gateway):
    sign_in(page, gateway, name="Models")
    page.on("dialog", lambda dialog: dialog.accept())
    row = page.get_by_role("row", name=re.compile("demo: demo-model"))
    row.get_by_role("button", name="drain").click()
    expect(row).to_contain_text("off")
    assert gateway.chat("demo-model").status == 503
    page.get_by_role("link", name="Configuration").click()
    expect(page.get_by_role("table", name="Changes at run time")).to_contain_text("dashboard")
    page.get_by_role("link", name="Models").click()
    row.get_by_role("button", name="enable").click()
    expect(row.get_by_role("button", name="drain")).to_be_visible()
    assert gateway.chat("demo-model").status == 200


def test_the_configuration_is_shown_without_secrets(page, gateway):
    sign_in(page, gateway, name="Configuration")
    page.get_by_text("The configuration as it is written").click()
    expect(page.locator("details pre")).to_contain_text("demo-model")
    assert TOKEN not in page.content() and "[redacted]" in page.content()


def test_a_model_answers_in_the_page_piece_by_piece(page, gateway):
    sign_in(page, gateway, name="Try%20it")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".answer")).to_contain_text("demo upstream")
    page.get_by_role("button", name="Who would answer?").click()
    expect(page.locator("main")).to_contain_text('"dry_run": true')
    assert page.problems == []


def test_usage_is_summed_and_drawn_by_what_is_chosen(page, gateway):
    for _ in range(3):
        assert gateway.chat("demo-model").status == 200
    sign_in(page, gateway, name="Usage")
    sums = page.get_by_role("table", name="Usage")
    expect(sums.get_by_role("columnheader").first).to_have_text("user")
    expect(sums).to_contain_text("everything")
    drawn = page.get_by_role("list", name="Spent by day").get_by_role("listitem")
    expect(drawn).to_have_count(1)
    expect(drawn).to_have_attribute("title", re.compile(r"\d{4}-\d\d-\d\d: \$0\.00, \d+ requests"))
    page.get_by_label("Sums by").select_option("model,day")
    expect(sums.get_by_role("row", name=re.compile("demo-model"))).to_be_visible()
    expect(sums).to_contain_text(re.compile(r"\d{4}-\d\d-\d\d"))
    page.get_by_label("Period").select_option("last 24 hours")
    expect(page.get_by_role("list", name="Spent by hour")).to_be_visible()
    # A period in which nothing was asked.
    for name, day in (("From", "2020-01-01"), ("To", "2020-01-02")):
        field = page.get_by_role("textbox", name=name, exact=True)
        field.fill(day)
        field.blur()
    expect(sums).to_contain_text("nothing to show")
    assert page.problems == []
