"""Photograph the page docs/axis for the README: docs/img/axis.png, and axis-dark.png beside it.

python tests/scripts/axis_picture.py     (needs chromium, chromium-driver, selenium and pillow)
"""

import base64
import io
from pathlib import Path

import browser
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"
STATE = "array=image&norm=batch_norm"
EDIT = "const slider = document.getElementById('slider'); slider.value = 3; slider.dispatchEvent(new Event('input'));"
END = "return Math.ceil(document.getElementById('code').getBoundingClientRect().top) - 24"


def photograph(driver, scheme):
    browser.screen(driver, 1280, 900)
    browser.prefer(driver, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    driver.get("about:blank")
    driver.get(f"{(DOCS / 'axis' / 'index.html').as_uri()}#{STATE}")
    driver.execute_script(EDIT)
    clip = {"x": 0, "y": 0, "width": 1280, "height": driver.execute_script(END), "scale": 1.5}
    data = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})["data"]
    return Image.open(io.BytesIO(base64.b64decode(data)))


if __name__ == "__main__":
    with browser.chromium() as driver:
        for scheme, name in (("light", "axis.png"), ("dark", "axis-dark.png")):
            picture = photograph(driver, scheme).convert("RGB").quantize(64, dither=Image.Dither.NONE)
            picture.save(DOCS / "img" / name, optimize=True)
