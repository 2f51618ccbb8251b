"""The page in a real browser, at a coordinator that goes on meanwhile."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from coordinator.access.admin_token import ensure_admin_token
from coordinator.app import create_app
from coordinator.context import Context
from coordinator.settings import CoordinatorSettings
from shared.tensors.codec import MEDIA_TYPE
from tests.support.browser import Tab, chromium, find_chromium, tab
from tests.support.page_federation import Seeded, seed
from tests.support.processes import ServingCoordinator, serving_coordinator
from tests.support.specifications import tiny_specification
from tests.support.updates import update_bytes

pytestmark = pytest.mark.e2e

_HOSPITALS, _TINY = "/page/federations/hospitals", "/page/federations/tiny"
_LARGEST_PICTURE = 200_000


@dataclass(frozen=True)
class Serving:
    """A coordinator that listens, with one federation of hospitals and one of two clients."""

    url: str
    token: str
    credentials: dict[str, dict[str, str]]

    def send_update(self, client: str) -> None:
        """Does a client's work in the round that is open."""
        with httpx.Client(base_url=self.url, headers=self.credentials[client]) as http:
            task = http.get("/v1/federations/tiny/task", params={"wait": 20}).json()
            answer = http.put(
                f"/v1/federations/tiny/rounds/{task['round_number']}/updates/{client}",
                params={"attempt": task["attempt"]},
                content=update_bytes(tiny_specification(), task),
                headers={"Content-Type": MEDIA_TYPE},
            )
            assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def serving(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    find_chromium()  # without a browser there is nothing to serve to
    folder = tmp_path_factory.mktemp("page")
    data_dir = folder / "coordinator"
    data_dir.mkdir()
    (data_dir / "hyperfl.db").write_bytes(migrated_sqlite.read_bytes())
    asyncio.run(_seed(CoordinatorSettings(data_dir=data_dir)))
    with serving_coordinator(folder) as coordinator:
        token = coordinator.admin_token_file.read_text().strip()
        yield Serving(coordinator.url, token, _start_tiny(coordinator, token))


@pytest.fixture(scope="module")
def browser(serving: Serving) -> Iterator[Browser]:
    """Begun after what runs an event loop: Playwright keeps one of its own in this thread."""
    with chromium() as launched:
        yield launched


async def _seed(settings: CoordinatorSettings) -> None:
    context: Context = create_app(settings).state.context
    await ensure_admin_token(context.database, settings.effective_admin_token_file, context.clock())
    await seed(context, Seeded())
    await seed(context, Seeded("imaging-lab", clients=5, rounds=3, planned=10))
    await context.database.close()


def _start_tiny(coordinator: ServingCoordinator, token: str) -> dict[str, dict[str, str]]:
    admin = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=coordinator.url) as http:
        document = tiny_specification(rounds=50).model_dump(mode="json")
        http.post("/v1/federations", json=document, headers=admin).raise_for_status()
        credentials = {}
        for client, enrolment in coordinator.invite("tiny", "a", "b").items():
            enrolled = http.post("/v1/enrolments", json={"enrolment_token": enrolment}).json()
            credentials[client] = {"Authorization": f"Bearer {enrolled['credential']}"}
            asked = http.get("/v1/federations/tiny/task", headers=credentials[client])
            assert asked.status_code == 204
        started = http.patch("/v1/federations/tiny", json={"action": "start"}, headers=admin)
        started.raise_for_status()
    return credentials


Picture = Callable[[Tab, str], None]


@pytest.fixture
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Picture:
    """Writes what is seen; with ``--screenshots docs/pictures``, what the README shows."""
    folder: Path = request.config.getoption("--screenshots") or tmp_path

    def write(shown: Tab, name: str) -> None:
        expect(shown.page.locator(".plot canvas")).to_have_count(4)
        shown.page.screenshot(path=folder / name)
        assert (folder / name).stat().st_size <= _LARGEST_PICTURE

    return write


@pytest.fixture
def opened(browser: Browser, serving: Serving) -> Iterator[Tab]:
    """Signed in, and nothing to complain of at the end."""
    with tab(browser, serving.url, serving.token) as one:
        yield one
        assert one.complaints == []


def test_a_federation_is_found_and_its_curves_are_drawn(opened: Tab, picture: Picture) -> None:
    page = opened.page
    page.set_viewport_size({"width": 1160, "height": 626})
    page.get_by_role("link", name="hospitals").click()
    expect(page).to_have_title("hospitals · HyperFL")
    expect(page.locator(".plot canvas")).to_have_count(4)
    accuracy = page.get_by_role("img", name=re.compile("Accuracy"))
    expect(accuracy.locator(".u-legend")).to_contain_text("after training")
    painted = page.evaluate(
        """() => [...document.querySelectorAll(".plot canvas")].map((canvas) => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return data.filter((value, index) => index % 4 === 3 && value).length;
        })"""
    )
    assert min(painted) > 500
    expect(page.locator("table.matrix tbody tr")).to_have_count(12)
    picture(opened, "page-federation.png")


def test_it_updates_by_itself_and_leaves_scroll_and_focus_where_they_are(
    opened: Tab, serving: Serving
) -> None:
    page = opened.page
    page.clock.install()
    page.set_viewport_size({"width": 900, "height": 400})
    opened.go(_TINY)
    region = page.get_by_role("region", name="Clients of the open round")
    row = region.get_by_role("row", name=re.compile("^b "))
    expect(row).to_contain_text("awaited")
    page.get_by_role("link", name="Weights").focus()
    page.mouse.wheel(0, 300)
    page.wait_for_function("scrollY > 100")
    before = page.evaluate("scrollY")
    serving.send_update("b")
    page.clock.fast_forward(5_000)
    expect(row).to_contain_text("recorded")
    assert page.evaluate("scrollY") == before
    expect(page.get_by_role("link", name="Weights")).to_be_focused()
    serving.send_update("a")
    expect(page.locator("dl.figures")).to_contain_text("Rounds committed0")
    with page.expect_response(lambda answer: answer.url.endswith(_TINY)):
        page.clock.fast_forward(5_000)


def test_out_of_sight_it_asks_nothing_and_out_of_reach_it_says_so(opened: Tab) -> None:
    page = opened.page
    page.clock.install()
    opened.go(_HOSPITALS)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.resource_type))
    _hide(opened, hidden=True)
    page.clock.fast_forward(60_000)
    assert "fetch" not in asked
    with page.expect_response(lambda answer: answer.url.endswith(_HOSPITALS)):
        _hide(opened, hidden=False)
    notice = page.locator("#reach")
    expect(notice).to_be_hidden()
    page.context.set_offline(True)
    page.clock.fast_forward(6_000)
    expect(notice).to_contain_text("The coordinator is out of reach. These numbers are of")
    page.context.set_offline(False)
    page.clock.fast_forward(6_000)
    expect(notice).to_be_hidden()
    assert all("Failed to fetch" in one for one in opened.complaints)
    opened.complaints.clear()


def _hide(opened: Tab, *, hidden: bool) -> None:
    """As if another tab came before this one, and went again."""
    opened.page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_an_action_is_asked_for_and_carried_out(opened: Tab) -> None:
    page = opened.page
    opened.go("/page/federations/imaging-lab")
    page.get_by_role("link", name="Pause…").click()
    expect(page.get_by_role("heading", name="Pause imaging-lab?")).to_be_visible()
    page.get_by_role("link", name="Leave it as it is").click()
    expect(page.locator("h1")).to_contain_text("running")
    page.get_by_role("link", name="Pause…").click()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1")).to_contain_text("paused")
    page.get_by_role("link", name="Clients", exact=True).click()
    page.get_by_label("Its name").fill("basel")
    page.get_by_role("button", name="Invite").click()
    expect(page.locator("#token")).to_contain_text("hyperfl-enrolment-")
    expect(page.locator("#config")).to_contain_text('name = "basel"')


def test_a_session_that_has_ended_leads_to_the_sign_in(opened: Tab, serving: Serving) -> None:
    page = opened.page
    page.clock.install()
    opened.go(_HOSPITALS)
    other = page.context.new_page()
    other.goto(f"{serving.url}/page/sessions")
    other.get_by_role("button", name="Sign out").click()
    page.clock.fast_forward(6_000)
    expect(page.get_by_label("Token")).to_be_visible()
    page.get_by_label("Token").fill(serving.token)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_title("hospitals · HyperFL")


_LIGHT = (
    *("/", _HOSPITALS, f"{_HOSPITALS}/clients", f"{_HOSPITALS}/rounds/25", f"{_HOSPITALS}/finish"),
    *("/page/audit", "/page/tokens", "/page/sign-in"),
)
"""One of each kind."""
_DARK = ("/", f"{_HOSPITALS}/clients", _HOSPITALS)


@pytest.mark.parametrize(
    ("scheme", "paths", "rules"), [("light", _LIGHT, None), ("dark", _DARK, ["color-contrast"])]
)
def test_axe_finds_nothing_serious_and_a_phone_has_room(
    browser: Browser,
    serving: Serving,
    picture: Picture,
    scheme: str,
    paths: tuple[str, ...],
    rules: list[str] | None,
) -> None:
    phone = {"width": 390, "height": 844}
    with tab(browser, serving.url, serving.token, color_scheme=scheme, viewport=phone) as one:
        faults = {}
        for path in paths:
            one.go(path)
            faults[path] = one.serious_faults(rules)
            assert not one.is_too_wide(), path
        if scheme == "dark":
            picture(one, "page-phone.png")
    assert {path: found for path, found in faults.items() if found} == {}


def test_without_scripts_the_tables_have_the_numbers(browser: Browser, serving: Serving) -> None:
    with tab(browser, serving.url, serving.token, java_script_enabled=False) as one:
        one.go(_HOSPITALS)
        page = one.page
        expect(page.locator("#curve-accuracy")).to_contain_text("Round 24: after training 0.86")
        expect(page.get_by_role("region", name="Rounds", exact=True)).to_contain_text("86.33 %")
        page.get_by_role("link", name="Rounds", exact=True).click()
        expect(page.locator("tbody tr")).to_have_count(25)
        assert one.complaints == []
