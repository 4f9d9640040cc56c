"""The page "Which numbers share a mean?" (docs/axis) in headless Chromium: controls, keys, widths, colours, access.

Every number is read from the page and held against the lines of normlib that the page gives to copy. Needs chromium
and chromium-driver, selenium and, for the last test, axe-core where node finds it (NODE_PATH).
"""

from pathlib import Path

import browser
import numpy as np
import pytest

pytest.importorskip("selenium")
if not (browser.CHROMIUM and browser.DRIVER):
    pytest.skip("no chromium and chromedriver", allow_module_level=True)

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "axis" / "index.html").as_uri()


@pytest.fixture(scope="module")
def driver():
    with browser.chromium() as driver:
        yield driver


@pytest.fixture
def page(driver):
    """Opens the page in a state. At the end, nothing has been written to the console."""
    browser.screen(driver, 1280, 900)
    browser.prefer(driver, prefers_color_scheme="light", prefers_reduced_motion="no-preference")

    def page(state=""):
        driver.get("about:blank")  # else only the fragment would change
        driver.get(f"{PAGE}#{state}")
        return driver

    yield page
    assert driver.get_log("browser") == []


def ask(driver, expression, *arguments):
    return driver.execute_script(f"return {expression}", *arguments)


def texts(driver, selector):
    found = ask(driver, "[...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", selector)
    return [text.replace("\N{MINUS SIGN}", "-") for text in found]


def text(driver, selector):
    (found,) = texts(driver, selector)
    return found


def cells(driver, kind):
    """The numbers of the cells of a class."""
    numbers = "[...document.querySelectorAll(arguments[0])].map((node) => +node.dataset.cell)"
    return ask(driver, numbers, f".cell.{kind}")


def click(driver, selector):
    driver.find_element("css selector", selector).click()


def choose(driver, name, value):
    ask(driver, "document.querySelector(arguments[0]).click()", f"[name={name}][value='{value}']")


def offered(driver, name):
    """The values that a control offers beside what is chosen; none where it is hidden."""
    nodes = f"[...document.querySelectorAll('[name={name}]:enabled:not(:checked)')]"
    return ask(driver, f"{nodes}.filter((node) => node.checkVisibility()).map((node) => node.value)")


def drag(driver, value):
    """Move the slider."""
    slider = "const slider = document.getElementById('slider'); slider.value = arguments[0];"
    driver.execute_script(f"{slider} slider.dispatchEvent(new Event('input'))", value)


def press(driver, *keys):
    for key in keys:
        ActionChains(driver).send_keys(key).perform()


def computed(program):
    """The variables of the lines to copy, arrays like x with their axes as the page draws them."""
    variables = {}
    exec(program, variables)
    order = program.split("# ")[1].split("\n")[0].replace(", ", "")
    drawn = [order.index(letter) for letter in "NTCHW" if letter in order]
    return variables | {name: variables[name].transpose(drawn).ravel() for name in ("x", "y")}


def assert_shown(driver):
    """All numbers of the page are those of its lines of normlib, to the last digit."""
    program = text(driver, "#program")
    found = computed(program)
    for name, digits in (("x", 1), ("y", 2)):
        shown = np.array(texts(driver, f".cell .{name}"), float)
        np.testing.assert_allclose(shown, found[name], rtol=0, atol=0.5001 * 10.0**-digits, err_msg=program)
    cell = ask(driver, "+document.querySelector('.cell.current').dataset.cell")
    np.testing.assert_allclose(float(text(driver, "#before")), found["x"][cell], rtol=0, atol=0.05001)
    np.testing.assert_allclose(float(text(driver, "#after")), found["y"][cell], rtol=0, atol=0.0005001)
    rows = dict(zip(texts(driver, "#statistics dt"), texts(driver, "#statistics dd"), strict=True))
    evaluating = "=False" in program
    known = {"rstd": found["rstd"], "running mean" if evaluating else "mean": found.get("mean")}
    if not evaluating and "running mean" in rows:
        known |= {"running mean": found["running_mean"], "running variance": found["running_var"]}
    for name, values in known.items():
        if name in rows and rows[name] != "NaN":
            assert np.nanmin(np.abs(values - float(rows[name].split()[-1]))) <= 0.5001e-4, (name, program)
    if rows["rstd"] != "NaN" and cell not in cells(driver, "outside"):  # the statistics are those of this cell
        mean = float(rows.get("running mean" if evaluating else "mean", 0))
        after = (found["x"][cell] - mean) * float(rows["rstd"])
        np.testing.assert_allclose(float(text(driver, "#after")), after, rtol=0, atol=2e-3, err_msg=program)
    assert program.endswith(f"\n{text(driver, '#line')}\n")


@pytest.mark.parametrize("array", ["features", "sequence", "image"])
def test_every_control_changes_what_is_computed(page, array):
    driver = page(f"array={array}")
    for norm in ["layer_norm", *offered(driver, "norm")]:
        choose(driver, "norm", norm)
        assert f" = normlib.{norm}(" in text(driver, "#line")
        assert_shown(driver)
        for name in ("axes", "groups", "evaluating", "memory"):
            for value in offered(driver, name):
                before = text(driver, "#program")
                choose(driver, name, value)
                assert text(driver, "#program") != before
                assert_shown(driver)
        click(driver, "#masked")
        assert "where=inside" in text(driver, "#line")
        assert_shown(driver)
        click(driver, "#masked")


def test_the_controls_are_those_that_mean_something(page):
    driver = page()
    assert offered(driver, "norm") == ["rms_norm", "batch_norm", "group_norm"]
    assert "Instance norm needs" in text(driver, "#norm-note")
    shown = {name: bool(offered(driver, name)) for name in ("centred", "groups", "evaluating", "memory")}
    assert shown == {"centred": True, "groups": False, "evaluating": False, "memory": False}
    choose(driver, "array", "image")
    choose(driver, "norm", "batch_norm")
    shown = {name: bool(offered(driver, name)) for name in ("centred", "groups", "evaluating", "memory")}
    assert shown == {"centred": False, "groups": False, "evaluating": True, "memory": True}
    choose(driver, "norm", "group_norm")
    assert offered(driver, "groups") == ["1", "4"]


def test_the_statistic_is_that_of_rms_norm(page):
    driver = page()
    choose(driver, "centred", "rms_norm")
    assert text(driver, "#line") == "y, rstd = normlib.rms_norm(x, axis=-1, return_stats=True)"
    assert "mean square" in texts(driver, "#statistics dt")


def test_the_last_axis_stays(page):
    driver = page()
    click(driver, "[name=axes][value=C]")
    assert "axis=-1" in text(driver, "#line")
    click(driver, "[name=axes][value=N]")
    click(driver, "[name=axes][value=C]")
    assert "axis=0" in text(driver, "#line")


def test_a_flip_lights_a_row_then_a_column(page):
    driver = page()
    assert cells(driver, "set") == [6, 7, 8, 9, 10, 11]
    click(driver, "#flip")
    assert cells(driver, "set") == [2, 8, 14, 20]
    assert text(driver, "#statement") == "One mean and one variance for every sample of feature 2"
    press(driver, "f")
    assert cells(driver, "set") == [6, 7, 8, 9, 10, 11]
    assert text(driver, "#statement") == "One mean and one variance for every feature of sample 1"


def test_batch_norm_couples_the_samples_and_layer_norm_does_not(page):
    driver = page()
    drag(driver, 4)
    assert cells(driver, "moved") == [6, 7, 8, 9, 10, 11]
    assert text(driver, "#movement") == "6 of 24 outputs moved, none in another sample."
    assert_shown(driver)
    click(driver, "#flip")
    assert cells(driver, "moved") == [2, 8, 14, 20]
    assert "3 of them in samples that you did not touch" in text(driver, "#movement")
    assert_shown(driver)
    choose(driver, "evaluating", "true")
    assert cells(driver, "moved") == [8]
    assert "The statistics are fixed." in text(driver, "#movement")
    click(driver, "#restore")
    assert cells(driver, "moved") == cells(driver, "edited") == []


def test_padding_moves_nothing(page):
    driver = page("array=sequence&masked=true")
    press(driver, Keys.TAB)
    click(driver, "[data-cell='47']")
    drag(driver, 9)
    assert text(driver, "#movement") == "No output moved: padding takes no part."
    assert 47 in cells(driver, "outside")
    assert text(driver, "#after") == "0.000"
    assert_shown(driver)


def test_the_pointer_shows_a_set_and_a_click_keeps_it(page):
    driver = page()
    to = driver.find_element("css selector", ".cell[data-cell='19']")
    ActionChains(driver).move_to_element(to).perform()
    assert cells(driver, "current") == [19]
    assert cells(driver, "set") == list(range(18, 24))
    assert_shown(driver)
    ActionChains(driver).move_to_element(driver.find_element("css selector", "h1")).perform()
    assert cells(driver, "current") == [8]
    to.click()
    ActionChains(driver).move_to_element(driver.find_element("css selector", "h1")).perform()
    assert cells(driver, "current") == [19]
    ActionChains(driver).move_to_element(driver.find_elements("css selector", "#ribbon i")[3]).perform()
    assert cells(driver, "current") == [3]


def test_the_ribbon_shows_the_order_in_memory(page):
    driver = page("array=image&norm=instance_norm")
    lit = "[...document.querySelectorAll('#ribbon i')].flatMap((node, i) => node.matches('.set') ? [i] : [])"
    assert ask(driver, lit) == list(range(18, 27))
    assert text(driver, "#ribbon-words") == "The set is one run of 9 neighbouring values."
    choose(driver, "memory", "last")
    assert ask(driver, lit) == list(range(2, 36, 4))
    assert text(driver, "#ribbon-words") == "The set is 9 single values, 4 apart."
    assert text(driver, "#ribbon-title") == "In memory: N, H, W, C, shape (2, 3, 3, 4)"
    assert cells(driver, "set") == list(range(18, 27))


def test_the_keys_reach_and_change_every_value(page):
    driver = page("array=image")
    driver.find_element("css selector", ".cell[tabindex='0']").send_keys("")
    reached = []
    press(driver, Keys.HOME)
    for _ in range(3):
        reached += cells(driver, "current")
        press(driver, Keys.ARROW_RIGHT)
    assert reached == [0, 1, 2]
    assert cells(driver, "current") == [9]  # the next channel
    press(driver, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert cells(driver, "current") == [45]  # the next sample
    press(driver, Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert cells(driver, "current") == [8]
    press(driver, Keys.END)
    assert cells(driver, "current") == [71]
    press(driver, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert cells(driver, "current") == [71]
    assert ask(driver, "document.activeElement.matches('.cell.current[tabindex=\"0\"]')")
    press(driver, "+", "+", "-")
    assert text(driver, "#before") == "7.8"
    assert cells(driver, "edited") == [71]
    assert_shown(driver)
    press(driver, Keys.ESCAPE)
    assert cells(driver, "edited") == []
    assert len(driver.find_elements("css selector", ".cell[tabindex='0']")) == 1


def test_a_number_can_be_typed(page):
    driver = page()
    field = driver.find_element("css selector", "#value")
    field.clear()
    field.send_keys("-7.25f", Keys.ENTER)
    assert text(driver, "#before") in ("-7.2", "-7.3")
    assert "layer_norm" in text(driver, "#line")  # F is no key in a field
    assert_shown(driver)


def test_a_reader_of_the_screen_hears_where_it_is(page):
    driver = page("norm=batch_norm&masked=true")
    label = "document.querySelector(`.cell[data-cell='${arguments[0]}']`).textContent"
    assert ask(driver, label, 8) == "\N{MINUS SIGN}1.3 becomes 0.79, sample 1, feature 2, shares the statistics"
    assert ask(driver, label, 11) == "0.2 becomes 0.00, sample 1, feature 5, padding"
    drag(driver, 4)
    assert ask(driver, label, 2).endswith("shares the statistics, output has moved")


def test_both_layer_norms_can_be_shown(page):
    driver = page()
    calls = []
    for button in driver.find_elements("css selector", "[data-state]"):
        button.click()
        calls.append((text(driver, "#line").split("normlib.")[1], len(cells(driver, "set"))))
        assert_shown(driver)
    assert calls == [
        ("layer_norm(x, axis=1, return_stats=True)", 4),
        ("layer_norm(x, axis=(1, 2, 3), return_stats=True)", 36),
        ("group_norm(x, 1, channel_axis=1, return_stats=True)", 36),
    ]
    assert len(driver.find_elements("css selector", "[data-miniature] .set")) == 4 + 36


def test_the_lines_can_be_copied(page):
    driver = page()
    driver.execute_script("navigator.clipboard.writeText = async (text) => (window.copied = text)")
    click(driver, "#copy-line")
    said(driver, "Copied.")
    assert ask(driver, "window.copied") == text(driver, "#line")
    click(driver, "summary")
    click(driver, "#copy-program")
    assert ask(driver, "window.copied") == text(driver, "#program")


def test_where_the_clipboard_is_closed_the_lines_are_selected(page):
    driver = page()
    driver.execute_script("navigator.clipboard.writeText = () => Promise.reject()")
    click(driver, "#copy-line")
    said(driver, "Selected: copy it with Ctrl+C.")
    assert ask(driver, "getSelection().toString()") == text(driver, "#line")


def said(driver, words):
    WebDriverWait(driver, 5).until(lambda driver: text(driver, "#copied") == words)


def test_a_state_has_an_address(page):
    driver = page()
    choose(driver, "array", "image")
    choose(driver, "norm", "group_norm")
    choose(driver, "groups", "4")
    line = text(driver, "#line")
    driver.refresh()
    assert text(driver, "#line") == line
    page("array=nothing&norm=other&axes=Q&channel=Q&memory=other&groups=7")
    assert "layer_norm(x, axis=-1" in text(driver, "#line")


@pytest.mark.parametrize("width", [320, 360, 600, 768, 1024, 1280])
@pytest.mark.parametrize("array", ["features", "sequence", "image"])
def test_nothing_is_wider_than_the_screen(page, width, array):
    driver = page(f"array={array}&norm=batch_norm&masked=true")
    browser.screen(driver, width, 800)
    drag(driver, -10.5)
    assert ask(driver, "document.documentElement.scrollWidth") <= width
    texts = "[...document.querySelectorAll('.cell :is(.x, .y)')]"
    room = f"{texts}.map((text) => text.getBoundingClientRect().left - text.parentNode.getBoundingClientRect().left)"
    assert min(ask(driver, room)) >= 0
    wide = "[...document.querySelectorAll('main > *, #readout *')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
    assert ask(driver, f"{wide}.filter((e) => e.clientWidth).map((e) => e.id)") == []
    boxes = ask(driver, "[...document.querySelectorAll('.cell')].map((c) => [c.offsetWidth, c.offsetHeight])")
    assert np.min(boxes) >= 24  # to be touched: WCAG 2.2, 2.5.8


@pytest.mark.parametrize("width", [660, 950, 1280])
def test_the_channels_of_a_sample_stand_in_a_line(page, width):
    driver = page("array=image")
    browser.screen(driver, width, 800)
    tops = ask(driver, "[...document.querySelectorAll('.titled')].map((grid) => grid.offsetTop)")
    assert len(set(tops)) == 2


def test_light_and_dark_follow_the_system_and_the_button(page):
    driver = page()
    colour = "getComputedStyle(document.body).backgroundColor"
    light = ask(driver, colour)
    browser.prefer(driver, prefers_color_scheme="dark")
    dark = ask(driver, colour)
    assert dark != light
    click(driver, "#theme")
    assert ask(driver, colour) == light
    click(driver, "#theme")
    browser.prefer(driver, prefers_color_scheme="light")
    assert ask(driver, colour) == dark


def test_who_wants_no_motion_has_none(page):
    driver = page()
    duration = "getComputedStyle(document.querySelector('.cell')).transitionDuration"
    assert ask(driver, duration) != "0s"
    browser.prefer(driver, prefers_reduced_motion="reduce")
    assert ask(driver, duration) == "0s"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["", "norm=batch_norm&masked=true", "array=sequence&norm=rms_norm", "array=image"])
def test_axe_finds_nothing_serious(page, scheme, state):
    driver = page(state)
    browser.prefer(driver, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    drag(driver, 5)
    assert browser.faults(driver) == []
