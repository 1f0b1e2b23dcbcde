"""The page: its numbers against Python's, and what a person does on it, in a real browser.

PYTHONPATH=tests python tests/use/test_page.py RUN FILE.png  # draws a seven on a run's page and takes a picture of it
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import html.parser
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.PngImagePlugin
import pytest
import torch
from conftest import Capsys, fit, refused, write_features
from tolerance import EPS, PROBABILITY

from logreg_lightning import LogisticRegression, load
from logreg_lightning.data.digit import NO_DIGIT, digit_to_pixels, paper_of
from logreg_lightning.data.pictures import read_picture, upright
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.errors import InputError
from logreg_lightning.use import export, predict
from logreg_lightning.use.page import page, takes_drawings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

SEVEN = [(0.28, 0.25), (0.45, 0.22), (0.7, 0.24), (0.6, 0.45), (0.5, 0.65), (0.42, 0.85)]
ONE = [(0.5, 0.2), (0.5, 0.8)]
PHOTO = Path(__file__).parents[2] / "docs" / "pictures" / "my.png"
LAID_OUT = "document.documentElement.scrollWidth <= innerWidth"


def browser(playwright: Playwright) -> Browser:
    """Chromium, from a package of the distribution or as Chrome or Edge; skips the test where there is none."""
    from playwright.sync_api import Error

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    for channel in (None, "chrome", "msedge"):
        with contextlib.suppress(Error):
            if path or channel:
                return playwright.chromium.launch(executable_path=None if channel else path, channel=channel)
    pytest.skip("no Chromium, Chrome or Edge that starts was found")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        yield browser(playwright)


def watched(opened: Page) -> tuple[Page, list[str]]:
    """The page, and all that it will complain about or load from elsewhere."""
    told: list[str] = []
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("dialog", lambda dialog: told.append(dialog.message))
    opened.on("request", lambda request: told.append(request.url))
    return opened, told


@pytest.fixture(scope="module")
def window(chromium: Browser) -> tuple[Page, list[str]]:
    """One for all tests that need no other."""
    return watched(chromium.new_page(viewport={"width": 1280, "height": 900}))


Open = Callable[..., "Page"]


@pytest.fixture
def opened(chromium: Browser, window: tuple[Page, list[str]], tmp_path: Path) -> Iterator[Open]:
    """Opens a model's page from disk; at the end nothing was complained about, and nothing but the file was loaded."""
    file, used = tmp_path / "page of a model.html", [window]

    def open_page(model: LogisticRegression, **settings: Any) -> Page:
        file.write_text(page(model.classifier()), encoding="utf-8")
        if settings:
            used.append(watched(chromium.new_page(**settings)))
        opened, told = used[-1]
        opened.goto(file.as_uri())
        assert told.pop() == file.as_uri()
        return opened

    yield open_page
    assert [told for _, told in used if told] == []
    for other, _ in used[1:]:
        other.close()


def made_up(*shape: int, names: list[str] | None = None, mean: float = 0.1, **settings: Any) -> LogisticRegression:
    """A model of images of that shape with weights that were drawn, all that `fit` could give it set to something."""
    names = names if names is not None else [str(number) for number in range(10)]
    size = int(np.prod(shape))
    model = LogisticRegression(size, len(names), image_shape=shape, class_names=names, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.linear.weight.copy_(torch.randn(len(names), size, generator=generator) / size**0.5)
        model.linear.bias.copy_(torch.randn(len(names), generator=generator))
        if model.standardizer is not None:
            model.standardizer.mean.copy_(2 * mean * torch.rand(size, generator=generator))
            model.standardizer.scale.copy_(1 + 2 * torch.rand(size, generator=generator))
        if model.temperature is not None:
            model.temperature.fill_(1.5)
    return model.eval()


DIGITS = made_up(1, 28, 28)


@pytest.fixture
def open_page(opened: Open) -> Page:
    """The page of `DIGITS`."""
    return opened(DIGITS)


def in_page(opened: Page, function: str, arrays: list[np.ndarray[Any, Any]]) -> list[bytes | None]:
    """What a function of the page, of height, width and bytes, makes of uint8 arrays; sent as text: lists are slow."""
    texts = opened.evaluate(
        f"""arrays => arrays.map(([height, width, text]) => {{
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const made = ({function})(height, width, bytes);
            return made && btoa(Array.from(new Uint8Array(made.buffer), (byte) => String.fromCharCode(byte)).join(""));
        }})""",
        [[*array.shape[:2], base64.b64encode(array.tobytes()).decode()] for array in arrays],
    )
    return [None if text is None else base64.b64decode(text) for text in texts]


def prepared(opened: Page, pictures: list[np.ndarray[Any, Any]]) -> list[torch.Tensor | None]:
    """What `logreg.prepare` makes of pictures, uint8 (H, W, 4), or (H, W) of greys: uint8 values, or null."""
    prepare = """(height, width, bytes) => {
        const image = new ImageData(width, height);
        if (bytes.length === image.data.length) image.data.set(bytes);
        else for (let i = 0; i < image.data.length; i++) image.data[i] = i % 4 === 3 ? 255 : bytes[i >> 2];
        return logreg.prepare(image);
    }"""
    made = in_page(opened, prepare, pictures)
    return [None if values is None else torch.tensor(list(values), dtype=torch.uint8) for values in made]


def asked_for(opened: Page, what: str, images: torch.Tensor) -> np.ndarray[Any, Any]:
    """What `logreg.predict` or `logreg.evidence` says of uint8 images (N, C, H, W), as float32 (N, ...)."""
    made = in_page(opened, f"(height, width, bytes) => logreg.{what}(bytes)", list(images.flatten(2).numpy()))
    return np.stack([np.frombuffer(values or b"", np.float32) for values in made])


def path_of(opened: Page, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of the window, of points given as shares of the paper."""
    box = opened.locator("#paper").bounding_box()
    assert box is not None
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]


def draw(opened: Page, points: list[tuple[float, float]]) -> None:
    """A stroke of the mouse."""
    first, *others = path_of(opened, points)
    opened.mouse.move(*first)
    opened.mouse.down()
    for point in others:
        opened.mouse.move(*point, steps=5)
    opened.mouse.up()


def bars(opened: Page) -> dict[str, float]:
    """Each class's probability as its bar says it; empty where there is no prediction."""
    rows = opened.get_by_role("meter").evaluate_all(
        "all => all.map((bar) => [bar.ariaLabel, bar.ariaValueNow, bar.ariaValueText, bar.firstChild.style.width])"
    )
    if all(text == "no prediction" for _, _, text, _ in rows):
        assert {(now, width) for _, now, _, width in rows} == {("0", "0%")}
        assert opened.locator(".share").all_inner_texts() == [""] * len(rows) and opened.inner_text("#answer") == ""
        return {}
    found = {name: float(now) for name, now, _, _ in rows}
    for _, now, _, width in rows:
        # A browser keeps six digits of a style.
        assert float(width.removesuffix("%")) == pytest.approx(100 * float(now), abs=1e-3)
    best = max(found, key=lambda name: found[name])
    assert opened.inner_text("#answer strong") == best and opened.inner_text(".winner .name") == best
    assert opened.inner_text(".winner .share") == f"{found[best]:.1%}"
    assert opened.inner_text("#message") == f"Predicted class: {best} {found[best]:.1%}"
    return found


def on_paper(opened: Page) -> PIL.Image.Image:
    """What is drawn, as a picture."""
    address = opened.evaluate("document.getElementById('paper').toDataURL()")
    return PIL.Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))


def checked_bars(opened: Page, picture: PIL.Image.Image | None = None) -> dict[str, float]:
    """The bars, which are the probabilities that Python gives to a digit: to what is on the paper, or to a picture."""
    [row] = DIGITS.predict_proba(picture or on_paper(opened), digit=True)
    found = bars(opened)
    assert found == pytest.approx(dict(zip(DIGITS.class_names, row.tolist(), strict=True)), abs=PROBABILITY)
    return found


def scrawls() -> list[np.ndarray[Any, Any]]:
    """Pictures that a digit might be on, RGBA: of any size, dark on light or light on dark, noisy, coloured, clear."""
    rng = np.random.default_rng(0)
    found = []
    for number, (width, height) in enumerate([(280, 280), (90, 300), (301, 77), (28, 28), (9, 12), (500, 40)] * 3):
        paper, ink = ((250, 250, 240), (30, 40, 90)) if number % 2 else ((12, 10, 20), (200, 220, 190))
        picture = PIL.Image.new("RGB", (width, height), paper)
        points = [(rng.uniform(0.2, 0.8) * width, rng.uniform(0.1, 0.9) * height) for _ in range(4)]
        PIL.ImageDraw.Draw(picture).line(points, ink, width=max(1, width // 15))
        values = np.asarray(picture.convert("RGBA")).copy()
        if number % 3 == 1:
            values[..., :3] = (values[..., :3] + rng.normal(0, 8, values[..., :3].shape)).clip(0, 255)
        if number % 3 == 2:
            values[..., 3] = rng.integers(0, 256, values.shape[:2])
        found.append(values)
    blank = np.full((40, 50, 4), 255, np.uint8)
    dot = blank.copy()
    dot[3, 4, :3] = 0
    digit = digit_to_pixels(PIL.Image.fromarray(found[0][..., 0]))[0].numpy()
    moved = [np.roll(digit, by, (0, 1)) for by in ((0, 0), (1, 0), (0, 1))]
    found += [np.asarray(PIL.Image.fromarray(values).convert("RGBA")) for values in moved]
    return [*found, blank, dot, dot[3:4, 4:5], np.ascontiguousarray(dot[:1])]


def photos() -> list[np.ndarray[Any, Any]]:
    """Greys as a camera sees them: strokes of any pen, light, shadows, grain, rules, desks; some without a digit."""
    rng = np.random.default_rng(3)
    found = []
    for number, (width, height) in enumerate([(200, 260), (90, 70), (640, 480), (401, 300), (33, 120), (803, 810)] * 3):
        picture = PIL.Image.new("L", (width, height), 230)
        pen = PIL.ImageDraw.Draw(picture)
        if number % 3 == 0:
            for y in range(10, height, 40):
                pen.line([(0, y), (width, y)], 180, 1)
        if number % 4 == 1:
            pen.rectangle((0, height * 9 // 10, width, height), 60)
        points = [(rng.uniform(0.3, 0.7) * width, rng.uniform(0.2, 0.8) * height) for _ in range(3)]
        if number % 6 != 5:
            pen.line(points, int(rng.integers(0, 150)), max(1, int(rng.integers(2, 30) * width) // 300))
        values = np.asarray(picture, np.float64) * np.linspace(1, rng.uniform(0.4, 1), width)
        values[:, : width // 3] *= rng.uniform(0.5, 1)
        values = (values + rng.normal(0, rng.uniform(0, 9), values.shape)).clip(0, 255).astype(np.uint8)
        found.append(255 - values if number % 2 else values)
    return found


def digit_of(values: np.ndarray[Any, Any]) -> torch.Tensor | None:
    """What Python makes of a picture of a digit; None where it sees none."""
    try:
        return digit_to_pixels(upright(PIL.Image.fromarray(values), paper_of)).flatten()
    except InputError:
        return None


def test_a_digit_is_prepared_as_python_prepares_it(open_page: Page) -> None:
    pictures = [*scrawls(), *photos()]
    expected = [digit_of(values) for values in pictures]
    assert 10 < sum(one is not None for one in expected) < len(pictures) - 5
    for values, one, found in zip(pictures, expected, prepared(open_page, pictures), strict=True):
        assert (found is None and one is None) or (found is not None and one is not None and torch.equal(found, one)), (
            values.shape
        )


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 8, 8), (3, 20, 31), (1, 40, 3)])
def test_a_picture_is_prepared_as_predict_prepares_it(opened: Open, shape: tuple[int, int, int]) -> None:
    model = made_up(*shape)
    rng = np.random.default_rng(1)
    noise = [
        rng.integers(0, 256, (h, w, 4), dtype=np.uint8) for h, w in ((20, 31), (28, 28), (200, 90), (5, 64), (1, 1))
    ]
    pictures = [*scrawls(), *noise]
    for values, found in zip(pictures, prepared(opened(model), pictures), strict=True):
        expected = model.prepare(upright(PIL.Image.fromarray(values))).flatten()
        assert found is not None and torch.equal(found, expected), values.shape


@pytest.mark.parametrize("pixel_range", [None, (17.25, 40321.5), (0.0, 355.0)])
def test_a_png_of_16_bits_is_scaled_as_python_scales_it(opened: Open, pixel_range: tuple[float, float] | None) -> None:
    model = made_up(1, 9, 9, pixel_range=pixel_range)
    rng = np.random.default_rng(2)
    open_page = opened(model)
    decode = """async (text) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const image = await logreg.deepPng(bytes);
        return image && Array.from(logreg.prepare(image));
    }"""
    for top, size in ((65536, (31, 20)), (400, (9, 9)), (65536, (1, 1)), (65536, (90, 7))):
        file = io.BytesIO()
        PIL.Image.fromarray(rng.integers(0, top, size[::-1]).astype(np.uint16)).save(file, "PNG")
        found = open_page.evaluate(decode, base64.b64encode(file.getvalue()).decode())
        expected = model.prepare(read_picture(io.BytesIO(file.getvalue())))
        assert found == expected.flatten().tolist(), size
    other = io.BytesIO()
    PIL.Image.new("L", (9, 9), 7).save(other, "PNG")
    for content in (other.getvalue(), b"", b"hello"):
        assert open_page.evaluate(decode, base64.b64encode(content).decode()) is None


MODELS = [
    DIGITS,
    made_up(1, 28, 28, standardize=False, calibrate=False),
    made_up(3, 8, 6, names=["cat", "dog"]),
    made_up(3, 5, 5, names=[f"class {number}" for number in range(30)]),
]


@pytest.mark.parametrize("model", MODELS)
def test_probabilities_and_evidence_are_the_models(opened: Open, model: LogisticRegression) -> None:
    open_page = opened(model)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (30, *model.image_shape), dtype=torch.uint8, generator=generator)
    images = torch.cat([images, torch.zeros_like(images[:1]), torch.full_like(images[:1], 255)])
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        logits = exact(images / 255.0)
    expected = logits.softmax(1).numpy()
    assert np.abs(asked_for(open_page, "predict", images) - expected).max() < 1e-6
    two = logits.topk(2)
    weight, bias = (value.detach().numpy() for value in exact.on_pixels())
    found = asked_for(open_page, "evidence", images)
    assert found.shape == (len(images), model.image_shape[1] * model.image_shape[2])
    # The page computes in float64 and rounds each pixel's evidence, which is below 1, to float32.
    sizes = np.abs(found).sum(1).max()
    differences = (two.values[:, 0] - two.values[:, 1]).numpy()
    np.testing.assert_allclose(found.sum(1, dtype=np.float64), differences, rtol=0, atol=EPS * sizes)
    for row, image, (winner, second) in zip(found, images.numpy(), two.indices.tolist(), strict=True):
        difference = (weight[winner] - weight[second]).reshape(model.image_shape)
        pixels = (difference * (image / 255)).sum(0).flatten()
        np.testing.assert_allclose(row, pixels + (bias[winner] - bias[second]) / pixels.size, rtol=0, atol=EPS)


def test_wrong_pixels_are_refused(open_page: Page) -> None:
    said = "(wrong) => { try { logreg.predict(wrong); return '' } catch (error) { return String(error) } }"
    for wrong in ([], [0] * 784):
        assert open_page.evaluate(said, wrong) == "TypeError: pixels must be a Uint8Array of 1 x 28 x 28 values"


def test_strokes_are_predicted_undone_and_cleared(open_page: Page) -> None:
    assert bars(open_page) == {}
    open_page.locator("#paper").click(button="right")
    assert bars(open_page) == {}
    draw(open_page, ONE)
    one = checked_bars(open_page)
    draw(open_page, [(0.2, 0.5), (0.8, 0.5)])
    assert checked_bars(open_page) != one
    open_page.keyboard.press("Control+z")
    assert bars(open_page) == one
    open_page.get_by_role("button", name="Clear").click()
    assert bars(open_page) == {} and np.asarray(on_paper(open_page).convert("L")).min() == 255
    open_page.get_by_role("button", name="Undo").click()  # a clearing is undone too
    assert bars(open_page) == one
    open_page.get_by_role("button", name="Undo").click()
    assert bars(open_page) == {}
    assert open_page.locator("button:disabled").all_inner_texts() == ["Clear", "Undo"]
    at = path_of(open_page, ONE)
    open_page.mouse.move(*at[0])
    open_page.mouse.down()
    open_page.keyboard.press("Control+z")  # in the middle of a stroke
    open_page.mouse.move(*at[1])
    open_page.mouse.up()
    assert bars(open_page) == {}
    draw(open_page, [(0.5, 0.5)])  # a dot is no digit
    assert bars(open_page) == {} and open_page.locator("#message").text_content() == f"{NO_DIGIT}."
    draw(open_page, ONE)
    checked_bars(open_page)


def test_a_script_draws_too(open_page: Page) -> None:
    send = """([kind, clientX, clientY]) => document.getElementById("paper").dispatchEvent(
        new PointerEvent(kind, { clientX, clientY, pointerId: 7, isPrimary: true, bubbles: true }))"""
    first, last = path_of(open_page, ONE)
    for kind, point in (("pointerdown", first), ("pointermove", last), ("pointerup", last)):
        open_page.evaluate(send, [kind, *point])
    checked_bars(open_page)


def test_bars_move_while_one_draws(open_page: Page) -> None:
    now = "Array.from(document.querySelectorAll('[role=meter]'), (bar) => bar.ariaValueNow).join()"
    points = path_of(open_page, [(0.5, 0.2), (0.5, 0.55), (0.4, 0.65), (0.4, 0.8), (0.6, 0.8)])
    open_page.mouse.move(*points[0])
    open_page.mouse.down()
    seen = [open_page.evaluate(now)]  # a dot is no digit
    for point in points[1:]:
        open_page.mouse.move(*point)
        seen.append(open_page.evaluate(now))
    open_page.mouse.up()
    assert len(set(seen)) == len(seen)


def test_a_finger_draws_and_the_page_does_not_scroll(opened: Open) -> None:
    open_page = opened(DIGITS, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    assert open_page.get_by_text("Take a photo").is_visible()
    client = open_page.context.new_cdp_session(open_page)

    def swipe(points: list[tuple[float, float]]) -> None:
        for kind, (x, y) in zip(["touchStart"] + ["touchMove"] * len(points[1:]), points, strict=True):
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    swipe(path_of(open_page, [(0.5, 0.9 - step / 10) for step in range(8)]))
    assert open_page.evaluate("scrollY") == 0
    found = checked_bars(open_page)
    fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(path_of(open_page, ONE))]
    for kind, points in (("touchStart", fingers[:1]), ("touchStart", fingers), ("touchEnd", [])):
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    open_page.get_by_role("button", name="Undo").tap()  # of two fingers one draws
    assert bars(open_page) == found
    swipe([(10, 600 - 40 * step) for step in range(10)])  # beside the paper it would
    wait = "async () => { for (let i = 0; i < 600 && scrollY < 100; i++) await new Promise(requestAnimationFrame); }"
    open_page.evaluate(wait)
    assert open_page.evaluate("scrollY") >= 100


def test_the_keyboard_does_all(open_page: Page) -> None:
    press = open_page.keyboard.press
    press("Tab")
    assert open_page.evaluate("document.activeElement.id") == "paper"
    assert open_page.locator("#pen").is_visible() and open_page.get_by_text("Arrow keys").is_visible()
    press("ArrowRight")
    assert bars(open_page) == {}  # the pen is up
    press("Space")
    for _ in range(12):
        press("ArrowDown")
    press("Space")
    press("ArrowLeft")
    found = checked_bars(open_page)
    rows = np.flatnonzero(np.asarray(on_paper(open_page).convert("L")).min(1) < 128)
    assert rows[-1] - rows[0] > 12 * (420 / 28)
    press("Tab")
    assert open_page.evaluate("document.activeElement.id") == "clear" and open_page.locator("#pen").is_hidden()
    press("Enter")
    assert bars(open_page) == {}
    press("Shift+Tab")
    press("Control+z")
    assert bars(open_page) == found
    press("Space")
    press("Tab")  # who leaves the paper lifts the pen
    press("Shift+Tab")
    press("ArrowRight")
    longer = on_paper(open_page)
    press("ArrowRight")
    assert on_paper(open_page) == longer
    press("Control+z")
    assert bars(open_page) == found
    ways = []
    for _ in range(4):
        press("Tab")
        ways.append(open_page.evaluate("document.activeElement.id"))
    assert ways[:3] == ["clear", "undo", "file"]


@pytest.mark.parametrize("names", [["cat", "dog"], [f"kind {number:02d}" for number in range(30)]])
def test_pictures_are_predicted_as_predict_does(opened: Open, tmp_path: Path, names: list[str]) -> None:
    model = made_up(3, 16, 16, names=names)
    open_page = opened(model)
    assert open_page.title() == "Classify a picture" and bars(open_page) == {}
    draw(open_page, ONE)
    assert bars(open_page) == {}  # nothing to draw on
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8).repeat(12, 0).repeat(12, 1)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned
    linear = PIL.PngImagePlugin.PngInfo()
    linear.add(b"gAMA", (100000).to_bytes(4, "big"))  # Pillow takes values as they are, whatever light they stand for
    PIL.Image.fromarray(values).save(tmp_path / "clear.png", pnginfo=linear)
    PIL.Image.fromarray(values).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    for name in ("clear.png", "photo.jpg"):
        path = tmp_path / name
        open_page.set_input_files("#file", path)
        open_page.locator("#paper.picture").wait_for()
        [(_, pixels, row)] = predict.predict(model, [path], False, [])
        expected = dict(zip(names, row.tolist(), strict=True))
        shown = dict(sorted(expected.items(), key=lambda item: -item[1])[: 10 if len(names) > 20 else len(names)])
        # Browsers and PIL may decode a JPEG's colours apart by a level or two.
        assert bars(open_page) == pytest.approx(shown, abs=PROBABILITY if name == "clear.png" else 5e-3)
        assert pixels.shape == (3, 16, 16)
        open_page.get_by_role("button", name="Clear").click()
        assert bars(open_page) == {}


def test_a_photo_of_a_digit_is_taken_for_a_drawing(open_page: Page, tmp_path: Path) -> None:
    open_page.set_input_files("#file", PHOTO)
    open_page.locator("#paper.picture").wait_for()
    checked_bars(open_page, read_picture(PHOTO))
    draw(open_page, ONE)  # on new paper
    checked_bars(open_page)
    open_page.get_by_role("button", name="Undo").click()
    checked_bars(open_page, read_picture(PHOTO))
    PIL.Image.new("L", (50, 50), 200).save(tmp_path / "blank.png")
    open_page.set_input_files("#file", tmp_path / "blank.png")
    open_page.get_by_text(NO_DIGIT).wait_for()
    assert bars(open_page) == {}
    (tmp_path / "notes.png").write_text("hello", encoding="utf-8")
    open_page.set_input_files("#file", tmp_path / "notes.png")
    open_page.get_by_text("notes.png cannot be read as a picture.").wait_for()


def test_a_picture_is_dropped(open_page: Page) -> None:
    open_page.evaluate(
        """text => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "my.png", { type: "image/png" }));
            for (const kind of ["dragover", "drop"]) {
                document.body.dispatchEvent(
                    new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
            }
        }""",
        base64.b64encode(PHOTO.read_bytes()).decode(),
    )
    open_page.locator("#paper.picture").wait_for()
    checked_bars(open_page, read_picture(PHOTO))
    assert open_page.evaluate("document.body.className") == ""


@pytest.mark.slow
@pytest.mark.parametrize("model", [DIGITS, made_up(3, 8, 8, names=["W" * 60, "a name of some words", "o"])])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_any_window(opened: Open, width: int, model: LogisticRegression) -> None:
    open_page = opened(model, viewport={"width": width, "height": 900})
    assert open_page.evaluate(LAID_OUT)
    heights = "Array.from(document.querySelectorAll('section'), (section) => section.offsetHeight).join()"
    before = open_page.evaluate(heights)
    draw(open_page, SEVEN)
    assert open_page.evaluate(LAID_OUT)
    assert width < 1280 or open_page.evaluate(heights) == before  # nothing moves
    for shown in ("h1", "#paper", "#seen", "#evidence", "#tiles canvas >> nth=0", "button >> nth=0"):
        box = open_page.locator(shown).bounding_box()
        assert box is not None and box["width"] > 30 and box["x"] >= 0 and box["x"] + box["width"] <= width, shown
    for scheme in ("light", "dark"):
        open_page.emulate_media(color_scheme=scheme)
        assert open_page.evaluate(LAID_OUT)
        picture = PIL.Image.open(io.BytesIO(open_page.screenshot())).convert("L")
        assert (np.median(np.asarray(picture)) < 60) == (scheme == "dark")


def test_what_is_shown_is_what_decides(opened: Open) -> None:
    model = made_up(1, 28, 28)
    with torch.no_grad():
        model.linear.bias[4] += 6
    open_page = opened(model)
    pixels_of = """id => {
        const canvas = document.getElementById(id) ?? document.querySelectorAll("#tiles canvas")[Number(id)];
        return Array.from(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data);
    }"""

    def shown(name: str) -> np.ndarray[Any, Any]:
        return np.array(open_page.evaluate(pixels_of, name)).reshape(28, 28, 4)

    assert not shown("seen").any() and not shown("evidence").any()
    assert open_page.locator(".winner").count() == 0
    draw(open_page, SEVEN)
    pixels = digit_to_pixels(upright(on_paper(open_page)))
    assert (shown("seen")[..., :3] == pixels[0].unsqueeze(2).numpy()).all()
    evidence = asked_for(open_page, "evidence", pixels.unsqueeze(0)).reshape(28, 28)
    strong = np.abs(evidence) > 0.05 * np.abs(evidence).max()
    red, blue = (shown("evidence")[..., channel].astype(int) for channel in (0, 2))
    assert ((red > blue) == (evidence > 0))[strong].all()
    alpha = 255 * np.abs(evidence) / np.abs(evidence).max()
    np.testing.assert_allclose(shown("evidence")[..., 3], alpha, atol=1)
    assert open_page.inner_text("#evidence-high") == f"+{float(f'{np.abs(evidence).max():.2g}'):g}"
    weight = model.on_pixels()[0].detach().numpy().reshape(10, 28, 28)
    best = bars(open_page)
    winner = max(best, key=lambda name: best[name])
    assert winner == "4"
    assert open_page.locator("#tiles .winner").all_inner_texts() == [winner]
    for number in (0, 9):
        strong = np.abs(weight[number]) > 0.2 * np.abs(weight).max()
        red, blue = (shown(str(number))[..., channel].astype(int) for channel in (0, 2))
        assert ((red > blue) == (weight[number] > 0))[strong].all()
    total, terms = evidence.sum(dtype=np.float64), float(np.abs(evidence).sum())
    second = sorted(best, key=lambda name: -best[name])[1]
    assert f"{winner} is" in open_page.inner_text("#sum") and open_page.inner_text("#sum").endswith(f"as {second}.")
    # The exponential of a sum is as far off, relatively, as the sum itself.
    assert best[winner] / best[second] == pytest.approx(np.exp(total), rel=EPS * (1 + terms))


def test_everything_has_a_name_for_a_screen_reader(opened: Open) -> None:
    for model in (DIGITS, made_up(1, 8, 8, names=["cat", "dog"])):
        open_page = opened(model)
        unnamed = open_page.evaluate(
            """Array.from(document.querySelectorAll("button, input, canvas, section, [role=meter]"))
                .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.[0]?.textContent.trim()
                    || document.getElementById(one.getAttribute("aria-labelledby"))))
                .map((one) => one.outerHTML)"""
        )
        assert unnamed == []
        spoken = open_page.locator("body").aria_snapshot()
        regions = (f'region "{name}"' for name in ("Prediction", "Why", "Weights"))
        for name in ('button "Choose a picture"', 'img "What the model sees"', 'meter "', *regions):
            assert name in spoken, spoken


NASTY = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "a & b\"'", "<!--", "é \u2028 \udcff"]


def test_names_of_classes_are_text(opened: Open) -> None:
    open_page = opened(made_up(1, 8, 8, names=NASTY))
    names = open_page.locator(".name").evaluate_all("all => all.map((one) => one.textContent)")
    assert [name.encode(errors="replace") for name in names][:4] == [name.encode() for name in NASTY[:4]]
    assert open_page.evaluate("[document.images.length, document.scripts.length]") == [0, 2]
    assert open_page.evaluate("MODEL.classes[4] === 'é \\u2028 \\udcff'")


class _Parts(html.parser.HTMLParser):
    """What a page is made of that could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("", {}))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.elements[-1][0], []).append(data)


def test_the_file_needs_nothing_else_and_its_policy_is_strict() -> None:
    text = page(DIGITS.classifier())
    assert len(text.encode()) < 200_000
    parts = _Parts(text)
    policies = [attrs["content"] for tag, attrs in parts.elements if "http-equiv" in attrs]
    assert len(policies) == 1 and policies[0] is not None
    policy = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in policies[0] and "http" not in policies[0]
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        hashed = hashlib.sha256(parts.texts[tag][-1].encode()).digest()
        assert policy[rule] == f"'sha256-{base64.b64encode(hashed).decode()}'"
    tags = [tag for tag, _ in parts.elements]
    assert tags.index("meta") < tags.index("script") and not {"img", "iframe", "object", "form"} & set(tags)
    assert ("link", {"rel": "icon", "href": "data:,"}) in parts.elements  # else a browser asks its host for one
    for tag, attrs in parts.elements:
        assert not {"src", "style", "srcset", "action", "onclick", "onload"} & set(attrs), tag
        assert attrs.get("href", "data:,") == "data:,"
    assert "http" not in text.lower().replace("http-equiv", "") and "url(" not in text and "@import" not in text


def test_a_page_may_load_nothing(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(DIGITS.classifier()), encoding="utf-8")
    open_page = chromium.new_page()
    open_page.goto(file.as_uri())
    refused = open_page.evaluate(
        """async () => {
            const script = document.createElement("script");
            script.textContent = "globalThis.ran = true";
            document.body.append(script);
            const reached = await fetch("data:text/plain,hello").then(() => true, () => false);
            return [reached, globalThis.ran ?? false];
        }"""
    )
    assert refused == [False, False]
    open_page.close()


def test_only_models_of_digits_like_mnists_take_drawings() -> None:
    def takes(*shape: int, **settings: Any) -> bool:
        return takes_drawings(made_up(*shape, **settings).classifier())

    assert takes(1, 28, 28) and takes(1, 28, 28, standardize=False)
    assert not takes(1, 28, 28, mean=0.8)  # dark on light
    assert not takes(1, 28, 28, names=list("abcdefghij"))
    assert not takes(1, 8, 8) and not takes(3, 28, 28)


def test_a_model_of_features_is_told_what_to_export(workdir: Path, capsys: Capsys) -> None:
    write_features(Path("mine"))
    run = fit("--data.dataset=mine", "--max_epochs=1")
    refused([str(run), "page.html"], "a page cannot compute; export an .onnx file", capsys, export.main)
    backbone = {"name": "efficientnet-lite0", "num_features": 1280}
    with pytest.raises(InputError, match=r"features of efficientnet-lite0, which a page cannot compute; export an"):
        page(LogisticRegression(1280, 2, image_shape=(3, 224, 224), backbone=backbone).classifier())


def test_export_writes_the_page(run: Path, capsys: Capsys) -> None:
    capsys.readouterr()
    export.main([str(run), "page.html"])
    assert Path("page.html").read_text(encoding="utf-8") == page(LogisticRegression.load(run).classifier())
    assert capsys.readouterr().out.startswith("page.html: open it in a browser and draw a digit; ")
    assert not list(Path().glob("*.partial"))


@pytest.mark.slow
def test_five_hundred_digits_of_real_mnist(real_mnist: Path, opened: Open) -> None:
    model = LogisticRegression.load(fit("--data.dataset=mnist", "--max_epochs=2"))
    data = ImageDataModule("mnist")
    data.setup()
    open_page = opened(model)
    apart, other = 0, 0
    for begin in range(0, 500, 50):
        pictures = [
            PIL.Image.fromarray(255 - pixels[0].numpy()).resize((280, 280))
            for pixels in data.data.test.pixels[begin : begin + 50]
        ]
        seen = [one for one in prepared(open_page, [np.asarray(p) for p in pictures]) if one is not None]
        wanted = [one for one in (digit_of(np.asarray(p)) for p in pictures) if one is not None]
        assert len(seen) == len(wanted) >= 45
        found, expected = (torch.stack(those).reshape(-1, 1, 28, 28) for those in (seen, wanted))
        apart += int(((found.int() - expected.int()).abs() > 2).sum())
        probabilities = asked_for(open_page, "predict", found)
        other += int((probabilities.argmax(1) != model.predict_proba(expected).argmax(1).numpy()).sum())
        raw = data.data.test.pixels[begin : begin + 50]
        assert np.abs(asked_for(open_page, "predict", raw) - model.predict_proba(raw).numpy()).max() <= 1e-5
    assert apart <= 0.01 * 500 * 784 and other <= 3


def photograph(run: str, file: str) -> None:
    """Draws a seven on the page of a run's model and takes a picture of it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        open_page = browser(playwright).new_page(viewport={"width": 1280, "height": 860})
        open_page.set_content(page(load(run)))
        draw(open_page, SEVEN)
        open_page.screenshot(path=file)


if __name__ == "__main__":
    photograph(*sys.argv[1:])
