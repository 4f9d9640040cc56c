"""Headless Chromium for the tests of pages: Debian's chromium and chromium-driver, driven by selenium."""

import contextlib
import shutil
import subprocess
from pathlib import Path

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",  # nothing is to be reached: the pages are files
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium():
    """A browser, as long as the block runs. It keeps what pages write to the console."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def screen(driver, width, height, scale=1):
    """Make the page `width` x `height` pixels of CSS, `scale` of the screen each."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver, **features):
    """Media features: prefer(driver, prefers_color_scheme="dark")."""
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def faults(driver):
    """What axe-core finds on the page: (rule, impact, element). The test is skipped where node finds no axe-core."""
    command = ["node", "-p", "require.resolve('axe-core/axe.min.js')"]
    found = subprocess.run(command, capture_output=True, text=True) if shutil.which("node") else None
    if not found or found.returncode:
        import pytest

        pytest.skip("no axe-core")
    driver.execute_script(Path(found.stdout.strip()).read_text())
    result = driver.execute_async_script("axe.run({ preload: false }).then(arguments[0])")
    return [(fault["id"], fault["impact"], fault["nodes"][0]["html"]) for fault in result["violations"]]
