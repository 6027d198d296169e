"""The player page in a real browser against a real server: a phone, a thumb, a keyboard and a bad connection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from sqlalchemy import text

from bigmarket.activity.campaign import parse_campaign
from bigmarket.api.tokens import Tokens
from bigmarket.app import KIND_CHECKS
from browser import chromium
from faults.processes import ServerProcess, run_cli
from serving import Served, serving
from support import assert_healthy, count, give, install
from waiting import eventually

KEY = "a-server-key-of-24-characters"
SECRET = "a-secret-of-32-characters-at-least"  # noqa: S105  of this test alone
DRAW = "**/api/v1/raffle/activity/draw"
EXCHANGE = "**/api/v1/raffle/activity/credit_pay_exchange_sku"
SPIN = "#spin"

#: Four sectors; the third is locked until the second draw of the day, the third draw is among the second alone.
CAMPAIGN = """
activity:
  activity_id: 1
  name: Autumn <fair>
  time_zone: Asia/Shanghai
  begin: "2026-01-01 00:00:00"
  end: "2027-01-01 00:00:00"
skus:
  - {sku: 11, stock: 1000, total_count: 3, month_count: 3, day_count: 3}
  - {sku: 12, stock: 1000, total_count: 1, month_count: 1, day_count: 1}
  - {sku: 13, stock: 2, price: 5, total_count: 2, month_count: 2, day_count: 2}
  - {sku: 14, stock: 5, price: 500, total_count: 90, month_count: 90, day_count: 90}
strategy:
  strategy_id: 9
  name: fair
  chain:
    - {rule: rule_weight, tiers: [{at_draw: 3, awards: [2]}]}
  awards:
    - {award_id: 1, title: points, rate: "0.4", sort: 1}
    - {award_id: 2, title: mug, rate: "0.3", sort: 2}
    - {award_id: 3, title: car, rate: "0.1", stock: 1, sort: 3, tree: locked}
    - {award_id: 4, title: "谢谢 & <b>thanks</b>", rate: "0.2", sort: 4}
  trees:
    - tree_id: locked
      root: rule_lock
      nodes: [{rule: rule_lock, unlock_at_draw: 2}, {rule: rule_stock}, {rule: rule_luck_award, award_id: 1}]
      lines:
        - {from: rule_lock, to: rule_stock, when: ALLOW}
        - {from: rule_lock, to: rule_luck_award, when: TAKE_OVER}
        - {from: rule_stock, to: rule_luck_award, when: ALLOW}
awards:
  - {award_id: 1, kind: user_credit_blacklist, config: "1"}
  - {award_id: 2, kind: physical, claim_days: 14}
  - {award_id: 3, kind: physical}
  - {award_id: 4, kind: nothing}
rebates:
  - {behavior: sign, type: sku, sku: 12}
  - {behavior: sign, type: integral, credits: 10}
"""

TITLES = ["points", "mug", "car", "谢谢 & <b>thanks</b>"]


def install_fair(served: Served) -> None:
    install(served.world.stores.config, parse_campaign(CAMPAIGN, kinds=KIND_CHECKS))
    served.world.live.refresh()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, work=True) as running:
        install_fair(running)
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A phone; whatever goes wrong in the page's own code fails the test."""
    made = browser.new_context(viewport={"width": 360, "height": 740}, locale="en-GB")
    faults: list[str] = []
    made.on("weberror", lambda error: faults.append(str(error.error)))
    made.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    yield made
    made.close()
    assert faults == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    made = context.new_page()
    made.set_default_timeout(10_000)
    return made


def enter(page: Page, served: Served, *, user: str = "ann", draws: bool = True, more: str = "") -> None:
    """Open the page as ``user``, who has three draws unless told otherwise, and wait until the wheel stands there."""
    if draws:
        give(served.world.stores.config, user)
    page.goto(f"{served.url}/play/1?userId={user}{more}")
    expect(page.locator(".sector")).to_have_count(len(TITLES))
    expect(page.locator("#left-today")).not_to_be_empty()


def spin(page: Page, *, skip: bool = True) -> str:
    """Spin and wait for the wheel to stand. Returns what was won."""
    page.click(SPIN)
    if skip:
        page.keyboard.press("Escape")
    page.wait_for_selector(".result.full", timeout=15_000)
    return page.inner_text("#result strong")


def under_pointer(page: Page) -> str:
    """The title of the sector that the wheel stopped on."""
    matrix = "const m = new DOMMatrix(getComputedStyle(document.querySelector('.disc')).transform); return"
    degrees = page.evaluate(f"() => {{ {matrix} Math.atan2(m.b, m.a) * 180 / Math.PI }}")
    return TITLES[int((-degrees % 360) // (360 / len(TITLES)))]


def draws_spent(served: Served, user: str = "ann") -> int:
    return count(served.world.stores.config, f"SELECT count(*) FROM user_raffle_order WHERE user_id = '{user}'")


def text_of(served: Served, query: str) -> str:
    with served.world.stores.config.reading() as connection:
        return str(connection.execute(text(query)).scalar_one())


def test_the_wheel_stops_where_the_server_says(served: Served, page: Page) -> None:
    enter(page, served)
    expect(page.locator("h1")).to_have_text("Autumn <fair>")
    expect(page.locator("#left-today")).to_have_text("3 draws left today")
    expect(page.locator("#left-all")).to_have_text("3 in all")
    for left, skip in ((2, False), (1, True), (0, True)):
        title = spin(page, skip=skip)
        assert under_pointer(page) == title
        expect(page.locator(".sector.won")).to_have_count(1)
        expect(page.locator("#result .eyebrow")).to_have_text("Your draw")
        expect(page.locator("#left-all")).to_have_text(f"{left} in all")
    assert title == "mug", "the third draw's tier"
    assert draws_spent(served) == 3


def test_without_draws_it_says_so_and_asks_for_nothing(served: Served, page: Page) -> None:
    enter(page, served, draws=False)
    expect(page.locator("#left-today")).to_have_text("No draws left")
    expect(page.locator(SPIN)).to_have_attribute("aria-disabled", "true")
    page.click(SPIN, force=True)
    expect(page.locator("#trouble")).to_contain_text("No draws left")
    assert draws_spent(served) == 0


def test_what_the_server_refuses_is_said_in_plain_words(served: Served, page: Page) -> None:
    """The page still shows a draw that another window has spent meanwhile."""
    give(served.world.stores.config, "ann", sku=12)
    enter(page, served, draws=False)
    assert served.draw("ann").json()["code"] == "0000"
    page.click(SPIN)
    expect(page.locator("#trouble")).to_have_text("You have no draws left.")
    expect(page.locator("#result")).to_be_empty()
    expect(page.locator("#left-today")).to_have_text("No draws left")


def test_a_locked_prize_says_what_is_missing_and_unlocks(served: Served, page: Page) -> None:
    enter(page, served)
    car = page.locator("#prizes li").nth(2)
    expect(car).to_contain_text("Unlocks after 2 more draws today")
    expect(page.locator(".sector.locked")).to_have_count(1)
    spin(page)
    expect(car).to_contain_text("Unlocks after 1 more draw today")
    spin(page)
    expect(page.locator("#result .news")).to_have_text("Now unlocked: car")
    expect(page.locator("#prizes .lack")).to_have_count(0)
    expect(page.locator(".sector.locked")).to_have_count(0)
    expect(page.locator(".sector.won")).to_have_count(1)


def test_signing_in_earns_draws_and_credits_once_a_day(served: Served, page: Page) -> None:
    enter(page, served, draws=False)
    expect(page.locator("#balance")).to_have_text("You have 0 credits")
    expect(page.locator("#signIn .today")).to_have_text("20 today")
    page.click("#sign-in")
    expect(page.locator("#sign-in")).to_have_text("Signed in today")
    expect(page.locator("#sign-in")).to_be_disabled()
    expect(page.locator("#signIn .today")).to_have_text("20 signed in, today")
    expect(page.locator("#signIn .chip")).to_have_text("1 day in a row")
    expect(page.locator("#trouble")).to_contain_text("You are signed in.")
    expect(page.locator("#left-today")).to_have_text("1 draw left today")
    expect(page.locator("#balance")).to_have_text("You have 10 credits")
    spin(page)
    page.reload()
    expect(page.locator("#sign-in")).to_be_disabled()
    assert_healthy(served.world.stores.config)


def test_a_sign_in_elsewhere_is_no_error(served: Served, page: Page) -> None:
    enter(page, served, draws=False)
    answer = served.client.post("/api/v1/raffle/activity/calendar_sign_rebate?userId=ann&activityId=1")
    assert answer.json()["code"] == "0000"
    page.click("#sign-in")
    expect(page.locator("#trouble")).to_have_text("Signed in today")
    expect(page.locator("#sign-in")).to_be_disabled()


def earn(served: Served, page: Page) -> None:
    """Enter with the 10 credits of a sign-in."""
    served.client.post("/api/v1/raffle/activity/calendar_sign_rebate?userId=ann&activityId=1")
    eventually(lambda: count(served.world.stores.config, "SELECT count(*) FROM user_credit_order") == 1)
    enter(page, served, draws=False)
    expect(page.locator("#balance")).to_have_text("You have 10 credits")


def test_the_shop_sells_draws_for_credits(served: Served, page: Page) -> None:
    earn(served, page)
    offers = page.locator("#shop .offers li")
    expect(offers).to_have_count(2)  # those without a price are not for sale
    expect(offers.nth(0)).to_contain_text("2 draws")
    expect(offers.nth(0)).to_contain_text("2 left")
    expect(offers.nth(1)).to_contain_text("490 credits short")
    expect(offers.nth(1).locator("button")).to_be_disabled()
    page.get_by_role("button", name="Get 2 draws for 5 credits").click()
    expect(page.locator("#trouble")).to_have_text("Exchanged: 2 draws for you.")
    expect(page.locator("#balance")).to_have_text("You have 5 credits")
    expect(page.locator("#left-today")).to_have_text("3 draws left today")
    expect(offers.nth(0)).to_contain_text("1 left")
    page.click("#buy-13")
    expect(page.locator("#balance")).to_have_text("You have 0 credits")
    expect(offers.nth(0)).to_contain_text("Sold out")
    expect(page.locator("#buy-13")).to_be_disabled()
    expect(page.locator("#left-today")).to_have_text("5 draws left today")
    for left in (4, 3, 2, 1, 0):
        spin(page)
        expect(page.locator("#left-all")).to_have_text(f"{left} in all")
    expect(page.locator("#left-today")).to_have_text("No draws left")
    assert_healthy(served.world.stores.config)


@pytest.mark.parametrize("after_the_server", [True, False], ids=["answer lost", "request lost"])
def test_a_lost_exchange_counts_once(served: Served, page: Page, *, after_the_server: bool) -> None:
    earn(served, page)
    asked = lose(page, after_the_server=after_the_server, path=EXCHANGE)
    page.click("#buy-13")
    expect(page.locator("#trouble")).to_contain_text("The connection broke")
    page.reload()
    expect(page.locator("#trouble")).to_have_text("Your earlier exchange went through: 2 draws for you.")
    expect(page.locator("#balance")).to_have_text("You have 5 credits")
    expect(page.locator("#left-today")).to_have_text("3 draws left today")
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert_healthy(served.world.stores.config)


def test_tiers_show_how_far_it_is(served: Served, page: Page) -> None:
    enter(page, served)
    tier = page.locator("#tiers li")
    for words in ("3 draws to go", "2 draws to go", "Next draw!"):
        expect(tier).to_contain_text(words)
        spin(page)
    expect(tier).to_contain_text("Reached")
    expect(tier).to_contain_text("Only among mug")


def test_a_prize_is_claimed_and_followed(served: Served, page: Page) -> None:
    give(served.world.stores.config, "ann")
    for _ in range(2):
        assert served.draw("ann").json()["code"] == "0000"
    enter(page, served, draws=False)
    assert spin(page) == "mug"
    expect(page.locator("#awards .lines > li")).to_have_count(3)  # else the first would be another in a moment
    mug = page.locator("#awards .lines > li").first
    expect(mug).to_contain_text("Waiting for you")
    expect(mug).to_contain_text("Please do so by 4 Dec 2026.")
    mug.get_by_role("button", name="Enter your address: mug").click()
    assert page.evaluate("document.activeElement.id") == "claim-name"
    page.keyboard.type("Ann Example", delay=400)  # while the page still looks what has arrived
    page.fill("#claim-phone", "no number")
    page.fill("#claim-address", "1 Long Road\n200000 Shanghai")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(mug.locator("form")).to_be_visible()
    page.fill("#claim-phone", "+86 (0)21 555-0100")
    page.click("#claim button")
    expect(mug).to_contain_text("Being prepared")
    expect(page.locator("#trouble")).to_contain_text("Your prize will be sent to that address.")
    order_id = mug.get_attribute("data-order") or ""
    contact = text_of(served, f"SELECT contact FROM award_delivery WHERE order_id = '{order_id}'")
    assert json.loads(contact)["address"] == "1 Long Road, 200000 Shanghai"
    served.world.ship(order_id, carrier="SF Express", tracking="SF1029384756")
    page.reload()
    expect(mug).to_contain_text("Shipped")
    expect(mug).to_contain_text("SF Express SF1029384756")
    assert_healthy(served.world.stores.config)


def test_older_prizes_are_shown_when_asked_for(served: Served, page: Page) -> None:
    for number in range(4):
        give(served.world.stores.config, "ann", no=f"gift-{number}")
    for _ in range(12):
        assert served.draw("ann").json()["code"] == "0000"
    enter(page, served, draws=False)
    awards = page.locator("#awards .lines > li")
    expect(awards).to_have_count(10)
    page.click("#older")
    expect(awards).to_have_count(12)
    expect(page.locator("#older")).to_have_count(0)


def test_it_speaks_chinese_and_remembers_it(served: Served, browser: Browser, page: Page) -> None:
    enter(page, served)
    expect(page.locator("#lang")).to_have_text("中文")
    page.click("#lang")
    expect(page.locator("#left-today")).to_have_text("今天还可抽 3 次")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.reload()
    expect(page.locator("#prizes h2")).to_have_text("奖品")
    page.goto(f"{served.url}/play/1?userId=ann&lang=en")
    expect(page.locator("#prizes h2")).to_have_text("Prizes")
    with browser.new_context(locale="zh-CN") as chinese:
        other = chinese.new_page()
        other.goto(f"{served.url}/play/1")
        expect(other.locator("#gate-title")).to_have_text("请问您是？")


def test_words_are_the_same_in_both_languages(served: Served, page: Page) -> None:
    enter(page, served)
    words = page.evaluate(
        """async () => {
          const files = document.querySelector('script').src.replace('play.js', '')
          const names = (group, before) => Object.entries(group).flatMap(([name, text]) =>
            typeof text === 'object' ? names(text, name + '.') : [`${before}${name} ${typeof text} ${text.length}`])
          const { languages } = await import(files + 'words.js')
          return [names(languages.en, ''), names(languages.zh, '')]
        }"""
    )
    without_lengths = [
        [f"{name} {kind} {size if kind == 'function' else ''}" for name, kind, size in map(str.split, one)]
        for one in words
    ]
    assert without_lengths[0] == without_lengths[1]


def test_reduced_motion_shows_the_result_at_once(served: Served, browser: Browser) -> None:
    with browser.new_context(reduced_motion="reduce") as calm:
        page = calm.new_page()
        enter(page, served)
        page.evaluate(
            """() => { window.turns = 0; const disc = document.querySelector('.disc')
              new MutationObserver(seen => { window.turns += seen.length })
                .observe(disc, {attributeFilter: ['style']}) }"""
        )
        title = spin(page, skip=False)
        assert under_pointer(page) == title
        assert page.evaluate("window.turns") == 1


def test_with_the_keyboard_alone(served: Served, page: Page) -> None:
    enter(page, served)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "spin":
            break
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.wait_for_selector(".result.full")
    assert page.evaluate("document.activeElement.id") == "spin"
    result = page.locator("#result")
    expect(result).to_have_attribute("aria-live", "polite")
    expect(result).to_have_attribute("role", "status")
    expect(page.locator("#disc-title")).to_have_text("Wheel with 4 prizes")


def lose(page: Page, *, after_the_server: bool, path: str = DRAW) -> list[str]:
    """Break the connection of the next such call, there or back. Returns the request ids of all of them."""
    asked: list[str] = []

    def on_call(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or "")["requestId"])
        if len(asked) > 1:
            route.continue_()
            return
        if after_the_server:
            eventually(lambda: route.fetch().status == 200, pause_seconds=0.2)
        route.abort()

    page.route(path, on_call)
    return asked


@pytest.mark.parametrize("after_the_server", [True, False], ids=["answer lost", "request lost"])
def test_a_lost_connection_costs_nothing(served: Served, page: Page, *, after_the_server: bool) -> None:
    """The page asks again by itself."""
    enter(page, served)
    asked = lose(page, after_the_server=after_the_server)
    title = spin(page, skip=False)
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert under_pointer(page) == title
    expect(page.locator("#result .eyebrow")).to_have_text("This was your draw")
    expect(page.locator("#left-all")).to_have_text("2 in all")
    assert draws_spent(served) == 1
    spin(page)
    assert asked[2] != asked[0]


@pytest.mark.parametrize("after_the_server", [True, False], ids=["answer lost", "request lost"])
def test_a_reload_in_the_middle_of_a_draw_costs_nothing(
    served: Served, page: Page, *, after_the_server: bool
) -> None:
    """The page that comes back asks what became of the draw, with the very same id."""
    enter(page, served)
    asked = lose(page, after_the_server=after_the_server)
    page.click(SPIN)
    expect(page.locator("#trouble")).to_contain_text("The connection broke")
    page.reload()
    page.wait_for_selector(".result.full", timeout=15_000)
    assert len(asked) == 2
    assert asked[0] == asked[1]
    expect(page.locator("#result .eyebrow")).to_have_text("This was your draw")
    assert under_pointer(page) == page.inner_text("#result strong")
    assert draws_spent(served) == 1
    page.reload()
    expect(page.locator("#left-all")).to_have_text("2 in all")
    assert len(asked) == 2, "a draw that is settled is not asked for again"


def test_without_its_note_a_page_would_forget_the_draw(served: Served, page: Page) -> None:
    """What the tests above rest on: the id that is kept in the browser, and nothing else."""
    enter(page, served)
    asked = lose(page, after_the_server=True)
    page.click(SPIN)
    expect(page.locator("#trouble")).to_contain_text("The connection broke")
    page.evaluate("localStorage.clear()")
    page.reload()
    expect(page.locator("#left-all")).to_have_text("2 in all")
    expect(page.locator("#result")).to_be_empty()
    assert len(asked) == 1


def answering(status: int, code: str, **headers: str) -> Callable[[Route], None]:
    body = {"code": code, "info": "", "data": None}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda route: route.fulfill(status=status, json=body, headers=named)


def test_trouble_is_never_a_losing_ticket(served: Served, page: Page) -> None:
    enter(page, served)
    page.route(DRAW, answering(503, "0006", bigmarket_outcome="none", retry_after="7"))
    page.click(SPIN)
    trouble = page.locator("#trouble")
    expect(trouble).to_contain_text("Many people are here right now.")
    expect(trouble).to_contain_text("Nothing was spent.")
    expect(trouble).to_contain_text("Try again in 7 seconds.")
    expect(page.locator("#result")).to_be_empty()
    assert page.evaluate("Object.keys(localStorage).filter(key => key.includes('.draw.'))") == []
    page.unroute(DRAW)
    expect(page.locator(SPIN)).to_have_text("Spin")
    spin(page)
    expect(page.locator("#result .eyebrow")).to_have_text("Your draw")
    expect(page.locator("#notice")).to_be_hidden()


def test_an_unknown_outcome_is_settled_by_asking_again(served: Served, page: Page) -> None:
    enter(page, served)
    asked: list[str] = []

    def unknown(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or "")["requestId"])
        route.fetch()
        answering(503, "0001", bigmarket_outcome="unknown")(route)

    page.route(DRAW, unknown)
    page.clock.install()
    page.click(SPIN)
    for _ in range(90):
        page.clock.run_for(1000)
        if page.inner_text(SPIN) == "Ask again":
            break
    expect(page.locator("#trouble")).to_contain_text("the same request and counts once")
    assert len(asked) == 7
    page.unroute(DRAW)
    page.click(SPIN)
    page.clock.run_for(10_000)
    expect(page.locator("#result .eyebrow")).to_have_text("This was your draw")
    assert len(set(asked)) == 1
    assert draws_spent(served) == 1


def test_a_panel_that_fails_says_so_and_the_wheel_still_turns(served: Served, page: Page) -> None:
    page.route(
        "**/activity/query_*",
        lambda route: route.abort() if "account" not in route.request.url else route.continue_(),
    )
    enter(page, served)
    expect(page.locator("#awards")).to_contain_text("This part cannot be shown right now.")
    spin(page)
    page.unroute("**/activity/query_*")


def test_who_plays_is_asked_where_the_server_is_open(served: Served, page: Page) -> None:
    give(served.world.stores.config, "bob")
    page.goto(f"{served.url}/play/1")
    expect(page.locator("#gate-title")).to_have_text("Who is playing?")
    expect(page.locator("#until")).to_contain_text("31 Dec 2026")  # it ends at midnight
    expect(page.locator("#stage")).to_be_hidden()
    page.fill("#gate-user", "bob")
    page.keyboard.press("Enter")
    expect(page.locator("#left-today")).to_have_text("3 draws left today")
    expect(page.locator("#who")).to_have_text("bob")


def test_there_is_no_such_campaign(served: Served, page: Page) -> None:
    for number in ("2", "0", "abc", "99999999999999999999", "%00"):
        answer = page.goto(f"{served.url}/play/{number}")
        assert answer is not None
        assert answer.status == 404
        expect(page.locator("#gate-title")).to_have_text("There is no such campaign")


def test_where_the_server_has_keys_a_link_is_needed(tmp_path: Path, page: Page) -> None:
    with serving(tmp_path, server_keys=KEY) as served:
        install_fair(served)
        page.goto(f"{served.url}/play/1?userId=ann")
        expect(page.locator("#gate-title")).to_have_text("You need your own link")
        expect(page.locator("#gate-form")).to_be_hidden()
        page.goto(f"{served.url}/play/1#token=nonsense")
        expect(page.locator("#gate-title")).to_have_text("Your link is no longer valid")


def test_a_link_with_a_token_lets_its_user_play(tmp_path: Path, page: Page) -> None:
    settings = {"server_keys": KEY, "token_secrets": SECRET, "work": True}
    with serving(tmp_path, **settings) as served:
        install_fair(served)
        give(served.world.stores.config, "安")
        tokens = Tokens.of(served.world.settings, now_ms=served.world.now_ms)
        page.goto(f"{served.url}/play/1#token={tokens.sign('安', hours=1)}")
        expect(page.locator("#left-today")).to_have_text("3 draws left today")
        expect(page.locator("#who")).to_have_text("安")
        assert page.url == f"{served.url}/play/1", "the token does not stay in the address bar"
        spin(page)
        page.click("#sign-in")
        expect(page.locator("#left-today")).to_have_text("3 draws left today")
        page.reload()
        expect(page.locator("#who")).to_have_text("安")
        page.goto(f"{served.url}/play/1#token={tokens.sign('安', hours=-1)}")
        expect(page.locator("#gate-title")).to_have_text("Your link is no longer valid")
        page.reload()
        expect(page.locator("#gate-title")).to_have_text("You need your own link")


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_it_fits_the_screen(served: Served, browser: Browser, width: int) -> None:
    give(served.world.stores.config, "ann")
    with browser.new_context(viewport={"width": width, "height": 700}) as screen:
        page = screen.new_page()
        enter(page, served, user="ann-with-a-rather-long-name-of-some-64-characters-as-ids-can-be", draws=False)
        expect(page.locator("#prizes li")).to_have_count(len(TITLES))
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_server_that_dies_costs_nothing(tmp_path: Path, page: Page) -> None:
    """The demo as it is installed, behind several workers: kill -9, and the page goes on where it was."""
    home = tmp_path / "home"
    assert run_cli(home, "demo").returncode == 0
    with ServerProcess(home, workers=2) as server:
        page.goto(f"http://127.0.0.1:{server.port}/")
        assert page.url.endswith("/play/100301?userId=xiaofuge")
        expect(page.locator(".sector")).to_have_count(8)
        spin(page)
        expect(page.locator("#left-all")).to_have_text("9,999 in all")
        server.kill()
        eventually(lambda: not server.accepts())  # the workers end with their parent
        page.click(SPIN)
        expect(page.locator("#trouble")).to_contain_text("The server cannot be reached.")
        server.start()
        server.wait_ready()
        page.wait_for_selector(".result.full", timeout=70_000)
        expect(page.locator("#result .eyebrow")).to_have_text("This was your draw")
        expect(page.locator("#left-all")).to_have_text("9,998 in all")
