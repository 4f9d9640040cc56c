"""The page of `normlib bench --html` in headless Chromium: its tables sort, it fits, and it can be read by everyone.

Needs chromium and chromium-driver, selenium and, for the last test, axe-core where node finds it (NODE_PATH).
"""

import browser
import pytest
from test_bench_page import ABOUT, quick_results

from normlib.bench.page import page

pytest.importorskip("selenium")
if not (browser.CHROMIUM and browser.DRIVER):
    pytest.skip("no chromium and chromedriver", allow_module_level=True)


@pytest.fixture(scope="module")
def driver():
    with browser.chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "run.html"
    path.write_text(page(quick_results(), ABOUT), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(driver, address):
    browser.screen(driver, 1280, 900)
    browser.prefer(driver, prefers_color_scheme="light")
    driver.get("about:blank")
    driver.get(address)
    yield driver
    assert driver.get_log("browser") == []


def ask(driver, expression, *arguments):
    return driver.execute_script(f"return {expression}", *arguments)


def column(driver, number):
    """The column of the table of layer_norm, as numbers where they have a value to sort by."""
    rows = "[...document.querySelectorAll('#layer_norm tbody tr')]"
    return ask(driver, f"{rows}.map((row) => row.cells[{number}].dataset.v ?? row.cells[{number}].textContent)")


def head(driver, number):
    return driver.find_elements("css selector", "#layer_norm thead th")[number]


def test_a_head_sorts_its_column_up_then_down_by_mouse_and_by_key(opened):
    opened.find_element("css selector", "#layer_norm summary").click()
    names = [found.text for found in opened.find_elements("css selector", "#layer_norm thead th")]
    for number in (names.index("time"), names.index("x limit")):
        before = [float(value) for value in column(opened, number)]
        assert before != sorted(before)
        head(opened, number).find_element("tag name", "button").click()
        assert [float(value) for value in column(opened, number)] == sorted(before)
        assert head(opened, number).get_attribute("aria-sort") == "ascending"
        head(opened, number).find_element("tag name", "button").send_keys("\n")
        assert [float(value) for value in column(opened, number)] == sorted(before, reverse=True)
        assert ask(opened, "document.querySelectorAll('#layer_norm [aria-sort]').length") == 1
    head(opened, 0).find_element("tag name", "button").click()
    assert column(opened, 0) == sorted(column(opened, 0), key=str.lower)


def test_a_lost_case_leads_to_its_row(opened):
    link = opened.find_element("css selector", "#lost tbody a")
    row = ask(opened, "document.getElementById(arguments[0])", link.get_attribute("href").partition("#")[2])
    assert not row.is_displayed()
    link.click()
    assert row.is_displayed()


@pytest.mark.parametrize("width", [320, 600, 950, 1280])
def test_nothing_is_cut_off_and_the_page_does_not_scroll_sideways(opened, width):
    browser.screen(opened, width, 800)
    assert ask(opened, "document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('body *')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
    wide = f"{wide}.filter((e) => e.clientWidth && getComputedStyle(e).display !== 'inline')"
    assert ask(opened, f"{wide}.filter((e) => !e.closest('.scroll, svg')).map((e) => e.outerHTML)") == []
    outside = """[...document.querySelectorAll('figure svg')].flatMap((svg) => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].filter((text) => {
            const own = text.getBoundingClientRect();
            return own.left < box.left || own.right > box.right || own.top < box.top || own.bottom > box.bottom;
        }).map((text) => text.textContent);
    })"""
    assert ask(opened, outside) == []
    small = "[...document.querySelectorAll('figure text')].map((text) => text.getBoundingClientRect().height)"
    assert min(ask(opened, small)) > 9


def test_labels_of_an_axis_do_not_touch(opened):
    touching = """[...document.querySelectorAll('figure svg')].flatMap((svg) => {
        const boxes = [...svg.querySelectorAll('text')].map((text) => [text.getBoundingClientRect(), text.textContent]);
        return boxes.flatMap(([a, one], i) => boxes.slice(i + 1)
            .filter(([b]) => a.left < b.right && b.left < a.right && a.top < b.bottom - 4 && b.top < a.bottom - 4)
            .map(([, other]) => [one, other]));
    })"""
    assert ask(opened, touching) == []


def test_light_and_dark_follow_the_system(opened):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = ask(opened, colour)
    browser.prefer(opened, prefers_color_scheme="dark")
    assert ask(opened, colour) != light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened, scheme):
    browser.prefer(opened, prefers_color_scheme=scheme)
    opened.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.faults(opened) == []
