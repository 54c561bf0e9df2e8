"""Pages as a person meets them: opened from disk by chromium, on a desk and on a telephone, by mouse and by keyboard."""

import json
import shutil

import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: it is part of the extra `dev`"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium"),
]
PAGES = ("distilled/report.html", "trained/report.html", "comparison.html")
SIZES = {"desk": (1280, 900, "light"), "telephone": (390, 844, "dark")}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def show(browser, hostile_runs):
    """Open one of the runs' pages; anything it says to the console or asks of the network ends up in ``page.said``."""
    made = []

    def opened(name: str, size: str = "desk"):
        width, height, scheme = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: page.said.append(dialog.message))
        page.on("request", lambda request: page.said.append(request.url))
        page.on("requestfailed", lambda request: page.said.append(f"not sent: {request.failure}"))
        page.goto((hostile_runs / name).as_uri())
        made.append(page)
        own = (hostile_runs / name).as_uri()
        page.said = [said for said in page.said if said != own and not said.startswith("data:")]
        return page

    yield opened
    for page in made:
        page.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_quietly_and_fits_its_window(show, name, size, tmp_path):
    page = show(name, size)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    picture = page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert len(picture) > 10_000
    small = "[...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().height < 8).length"
    assert page.evaluate(small) == 0, "text of plots that nobody can read"


@pytest.mark.parametrize("name", PAGES)
def test_names_of_classes_are_shown_letter_by_letter_and_do_nothing(show, hostile_runs, name):
    page = show(name)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    if name != "comparison.html":
        shown = set(page.locator("bdi").all_inner_texts())
        folder = name.partition("/")[0]
        assert set(json.loads((hostile_runs / folder / "run.json").read_text())["data"]["classes"]) <= shown
    assert page.evaluate("document.querySelectorAll('script, img[onerror]').length") == 0
    assert page.title() != "run" and page.said == []


def test_what_reads_from_right_to_left_does_not_turn_its_neighbours(show):
    page = show(PAGES[0])
    row = page.locator("#data tr", has_text="שלום")
    page.locator("#data details").evaluate("d => d.open = true")
    boxes = [row.locator(cell).nth(n).bounding_box()["x"] for cell, n in (("th", 0), ("td", 0), ("td", 1))]
    assert boxes == sorted(boxes) and row.locator("td").all_inner_texts() == ["6", "2"]


@pytest.mark.parametrize("size", SIZES)
def test_images_grow_when_chosen_by_keyboard_and_shrink_on_escape(show, size):
    page = show(PAGES[0], size)
    first = page.locator("button.px").first
    first.focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    large = page.locator(".zoom:popover-open .px")
    assert large.count() == 1
    assert large.bounding_box()["width"] > 4 * first.bounding_box()["width"] and large.bounding_box()["x"] >= 0
    page.keyboard.press("Escape")
    assert page.locator(".zoom:popover-open").count() == 0
    assert page.evaluate("document.activeElement.className") == "px"
    page.keyboard.press("Tab")
    second = page.evaluate("document.activeElement.getAttribute('popovertarget')")
    assert second == "z1-2"
    page.keyboard.press("Enter")
    page.locator(".zoom:popover-open button").click()
    assert page.locator(".zoom:popover-open").count() == 0


def test_images_of_the_grid_differ_and_are_the_sheets(show):
    page = show(PAGES[0])
    buttons = page.locator("button.px")
    assert buttons.count() == 10
    pictures = [buttons.nth(n).screenshot() for n in range(10)]
    assert len(set(pictures)) == 10


def test_a_page_is_dark_where_people_like_it_dark(show):
    light, dark = (show(PAGES[0], size) for size in ("desk", "telephone"))
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    assert (light.evaluate(paper), dark.evaluate(paper)) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")
    assert light.evaluate(ink) != dark.evaluate(ink)


def test_the_policy_stops_what_escaping_would_have_missed(show, hostile_runs):
    text = (hostile_runs / PAGES[0]).read_text()
    more = "<script>document.title = 'run'</script><img src='http://ddcore.invalid/x.png'>"
    (hostile_runs / "broken.html").write_text(text.replace("</body>", f"{more}</body>"))
    page = show("broken.html")
    assert page.title() != "run"
    assert any("Content Security Policy" in said for said in page.said)
    assert [said for said in page.said if said.startswith(("http", "not sent"))][1:] == ["not sent: csp"]
