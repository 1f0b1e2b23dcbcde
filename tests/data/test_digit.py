"""A photo of a digit is made into what a clean drawing of it is, whatever else the photo shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest
import torch
from conftest import Capsys, fit, said_by

from logreg_lightning import load
from logreg_lightning.data.digit import components, digit_to_pixels, paper_of, placed
from logreg_lightning.data.pictures import upright
from logreg_lightning.errors import InputError
from logreg_lightning.use import predict
from logreg_lightning.use.classifier import Classifier

SIZE = 400
Values = np.ndarray


def seven(ink: int = 0, paper: int = 255) -> Values:
    """A drawing of a 7 and nothing else, float (SIZE, SIZE)."""
    picture = PIL.Image.new("L", (SIZE, SIZE), paper)
    PIL.ImageDraw.Draw(picture).line([(130, 110), (270, 110), (190, 300)], ink, 26, "curve")
    return np.asarray(picture.filter(PIL.ImageFilter.GaussianBlur(2)), dtype=np.float64)


def like(values: Values) -> float:
    """Which share of their ink the clean drawing and what the photo becomes share, moved by a pixel at most."""
    ink = 255 - seven().astype(np.uint8)
    rows, columns = np.flatnonzero(ink.max(1) >= 26), np.flatnonzero(ink.max(0) >= 26)
    clean = torch.from_numpy(placed(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])).unsqueeze(0).double()
    made = digit_to_pixels(PIL.Image.fromarray(values.clip(0, 255).astype(np.uint8))).double()
    moved = [made.roll((x, y), (1, 2)) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    return max(float(torch.minimum(clean, one).sum() / torch.maximum(clean, one).sum()) for one in moved)


def grain(values: Values, deviation: float) -> Values:
    return values + np.random.default_rng(0).normal(0, deviation, values.shape)


def light(values: Values) -> Values:
    return values * np.linspace(0.4, 1, SIZE)[:, None] * np.linspace(1, 0.7, SIZE)


def with_marks(draw: Callable[[PIL.ImageDraw.ImageDraw], object], values: Values) -> Values:
    picture = PIL.Image.fromarray(values.astype(np.uint8))
    draw(PIL.ImageDraw.Draw(picture))
    return np.asarray(picture, dtype=np.float64)


def specks(draw: PIL.ImageDraw.ImageDraw) -> None:
    for x, y in ((40, 50), (350, 80), (60, 340)):
        draw.ellipse((x, y, x + 6, y + 6), 0)


def frame(draw: PIL.ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 0, SIZE, SIZE), outline=90, width=45)


def hand(draw: PIL.ImageDraw.ImageDraw) -> None:
    draw.ellipse((270, 290, 500, 500), 150)


def rules(draw: PIL.ImageDraw.ImageDraw) -> None:
    for y in range(20, SIZE, 45):
        draw.line([(0, y), (SIZE, y)], 190, 2)


PHOTOS: dict[str, Callable[[], Values]] = {
    "clean": seven,
    "chalk": lambda: grain(seven(230, 40), 5),
    "grain": lambda: grain(seven(40, 220), 8),
    "pencil": lambda: grain(seven(150, 220), 4),
    "uneven light": lambda: grain(light(seven(30, 230)), 3),
    "a shadow in a corner": lambda: with_marks(lambda d: d.polygon([(0, 0), (120, 0), (0, 120)], 120), seven(30, 230)),
    "a dark desk": lambda: with_marks(lambda d: d.rectangle((0, 350, SIZE, SIZE), 60), seven(30, 230)),
    "a shadow across": lambda: seven(30, 230) * np.where(np.arange(SIZE) < 200, 1, 0.55),
    "a sheet on a desk": lambda: with_marks(frame, seven(30, 230)),
    "specks": lambda: with_marks(specks, seven(30, 230)),
    "ruled": lambda: with_marks(rules, seven(30, 230)),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_becomes_what_a_drawing_does(name: str) -> None:
    assert like(PHOTOS[name]()) > 0.9


def test_what_is_prepared_already_stays_as_it_is() -> None:
    made = digit_to_pixels(PIL.Image.fromarray(seven().astype(np.uint8)))
    assert torch.equal(digit_to_pixels(PIL.Image.fromarray(made[0].numpy())), made)
    for other in (made.roll(2, 1), made.roll(2, 2), 255 - made):  # not in the middle; not light on dark
        assert not torch.equal(digit_to_pixels(PIL.Image.fromarray(other[0].numpy())), other)


@pytest.mark.parametrize("side", [100, 3000])
def test_at_any_size(side: int) -> None:
    picture = PIL.Image.fromarray(seven().astype(np.uint8)).resize((side, side), PIL.Image.Resampling.BICUBIC)
    assert like(np.asarray(picture)) > 0.8


@pytest.mark.parametrize("level", [0, 255])
def test_transparent_paper_takes_the_tone_that_shows_the_ink(level: int) -> None:
    alpha = 255 - seven().astype(np.uint8)
    tones = np.full_like(alpha, level)
    picture = upright(PIL.Image.fromarray(np.stack([tones, alpha], -1), "LA"), paper_of)
    assert torch.equal(digit_to_pixels(picture), digit_to_pixels(PIL.Image.fromarray(255 - alpha)))


NO_DIGITS: dict[str, Callable[[], Values]] = {
    "white": lambda: np.full((SIZE, SIZE), 255.0),
    "black": lambda: np.zeros((SIZE, SIZE)),
    "paper": lambda: grain(light(np.full((SIZE, SIZE), 220.0)), 4),
    "ruled paper": lambda: grain(with_marks(rules, np.full((SIZE, SIZE), 230.0)), 2),
    "a sheet on a desk": lambda: grain(with_marks(frame, np.full((SIZE, SIZE), 230.0)), 3),
    "specks": lambda: grain(with_marks(specks, np.full((SIZE, SIZE), 230.0)), 2),
    "a hand": lambda: grain(with_marks(hand, np.full((SIZE, SIZE), 230.0)), 2),
    "noise": lambda: grain(np.full((SIZE, SIZE), 128.0), 40),
    "a page and a desk": lambda: grain(
        with_marks(lambda d: d.rectangle((0, 300, SIZE, SIZE), 60), np.full((SIZE, SIZE), 220.0)), 3
    ),
}


@pytest.mark.parametrize("name", NO_DIGITS)
def test_where_there_is_no_digit_none_is_guessed(name: str) -> None:
    with pytest.raises(InputError, match="no digit was seen"):
        digit_to_pixels(PIL.Image.fromarray(NO_DIGITS[name]().clip(0, 255).astype(np.uint8)))


def test_parts_are_those_of_a_flood_fill() -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.4
    labels, count = components(mask)
    assert (labels > 0).tolist() == mask.tolist() and labels.max() == count
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    parts = 0
    while left:
        parts += 1
        todo, part = [left.pop()], []
        while todo:
            y, x = todo.pop()
            part.append(labels[y, x])
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        assert len(set(part)) == 1
    assert parts == count


def test_both_doors_prepare_alike(workdir: Path, capsys: Capsys) -> None:
    run = fit("--data.dataset=mnist", "--max_steps=20")
    PIL.Image.fromarray(PHOTOS["uneven light"]().clip(0, 255).astype(np.uint8)).save("seven.png")
    PIL.Image.new("L", (300, 300), 200).save("blank.png")
    model = load(run)
    expected = model.predict_proba(digit_to_pixels(PIL.Image.open("seven.png")))
    for picture in ("seven.png", Path("seven.png"), PIL.Image.open("seven.png"), ["seven.png"]):
        assert torch.equal(model.predict_proba(picture, digit=True), expected)
    assert model.predict("seven.png", digit=True) == [model.class_names[int(expected.argmax())]]
    with pytest.raises(InputError, match="no digit was seen"):
        model.predict("blank.png", digit=True)

    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^1$"):
        predict.main([str(run), "seven.png", "blank.png", "--digit", "--format=csv"])
    printed = capsys.readouterr()
    assert f"{expected.max():.6f}" in printed.out and "blank.png: no digit was seen" in printed.err
    predict.main([str(run), "seven.png"])
    assert "use --digit" in capsys.readouterr().err
    PIL.Image.fromarray(255 - seven().astype(np.uint8)).resize((28, 28)).save("dark.png")
    said_by(predict.main, [run, "dark.png"], capsys)
    assert "--digit" not in capsys.readouterr().err


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_phones_photo_is_turned_once(workdir: Path, orientation: int, mode: str) -> None:
    """EXIF's orientation: 3 and 6 say that the file is the scene turned by 180 degrees, or by 90 anticlockwise."""
    turned = {3: PIL.Image.Transpose.ROTATE_180, 6: PIL.Image.Transpose.ROTATE_90}[orientation]
    scene = PIL.Image.fromarray(PHOTOS["uneven light"]().clip(0, 255).astype(np.uint8)).convert(mode)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    scene.transpose(turned).save("photo.png", exif=exif)
    model = made_up()
    expected = digit_to_pixels(scene.convert("RGB"))
    [(_, seen, _)] = predict.predict(model, [Path("photo.png")], True, [])
    assert torch.equal(seen, expected)
    with PIL.Image.open("photo.png") as photo:
        for picture in ("photo.png", photo, upright(photo)):
            assert torch.equal(model.prepare_digit(picture), expected)
            assert torch.equal(model.predict_proba(picture, digit=True), model.predict_proba(expected))


def made_up() -> Classifier:
    """A model of MNIST's digits with weights that were drawn."""
    weight = torch.randn(10, 784, generator=torch.Generator().manual_seed(0))
    return Classifier(weight, torch.zeros(10), [str(number) for number in range(10)], (1, 28, 28))
