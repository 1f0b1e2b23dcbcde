"""Files that are meant to be pictures: of every format, depth and shape, whole, damaged, and no pictures at all."""

from __future__ import annotations

import io
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin
import pytest
import torch
from conftest import Patch
from PIL.Image import Image, Resampling, Transpose

from logreg_lightning.data import pictures
from logreg_lightning.data.pictures import eight_bits, extremes, pixel_range, read_picture, reason_of, to_pixels
from logreg_lightning.runtime.output import quiet

RNG = np.random.default_rng(0)
GREYS = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)


def saved(picture: Image, kind: str, **settings: Any) -> bytes:
    """The bytes of a picture's file."""
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def read(content: bytes) -> Image:
    return read_picture(io.BytesIO(content))


def values_of(picture: Image) -> np.ndarray[Any, Any]:
    return np.asarray(picture)


def refusal(content: bytes) -> str:
    """Why a file is no picture."""
    with pytest.raises(OSError) as caught:
        read(content)
    return reason_of(caught.value)


# What may happen to a file.


def formats() -> dict[str, bytes]:
    """A file of each format that Pillow can write here and that a photo may be in."""
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a photo"
    photo = PIL.Image.fromarray(np.kron(COLOURS, np.ones((3, 3, 1), np.uint8)))
    deep = PIL.Image.fromarray(GREYS.astype(np.uint16) * 257)
    found = {
        kind: saved(photo, kind) for kind in ("BMP", "PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "GIF", "MPO", "PDF")
    }
    del found["PDF"]  # it is written, never read
    found |= {f"{kind} with EXIF": saved(photo, kind, exif=exif) for kind in ("PNG", "JPEG")}
    found |= {"PNG, 16 bits": saved(deep, "PNG"), "PNG, palette": saved(photo.quantize(16), "PNG")}
    found |= {"TGA, runs": saved(photo, "TGA", compression="tga_rle"), "SGI, grey": saved(photo.convert("L"), "SGI")}
    found |= {
        "TIFF, floats": saved(deep.convert("I").convert("F"), "TIFF"),
        "PNG, alpha": saved(photo.convert("LA"), "PNG"),
    }
    two = saved(photo, "GIF", save_all=True, append_images=[photo.rotate(90)])
    found |= {"GIF, two": two, "JPEG, CMYK": saved(photo.convert("CMYK"), "JPEG")}
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate"):
        if compression == "raw" or PIL.features.check("libtiff"):
            found[f"TIFF, {compression}"] = saved(photo, "TIFF", compression=compression, exif=exif)
    if PIL.features.check("libtiff"):
        for compression in ("group3", "group4", "tiff_ccitt"):
            found[f"TIFF, {compression}"] = saved(photo.convert("1"), "TIFF", compression=compression)
    for kind, feature in (("WEBP", "webp"), ("AVIF", "avif"), ("JPEG2000", "jpg_2000")):
        if PIL.features.check(feature):
            found[kind] = saved(photo, kind, **({} if feature == "jpg_2000" else {"exif": exif}))
    return found


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The same file, cut, with some bytes flipped, with a range that is zero or all ones, or with one twice."""
    begin, length = int(rng.integers(len(content))), int(rng.integers(1, 40))
    if rng.random() < 0.5:
        begin = int(rng.integers(min(200, len(content))))  # where the header is
    match rng.integers(5):
        case 0:
            return content[:begin]
        case 1:
            changed = bytearray(content)
            for _ in range(int(rng.integers(1, 6))):
                changed[int(rng.integers(len(content)))] = int(rng.integers(256))
            return bytes(changed)
        case 2:
            return content[:begin] + bytes([content[begin] ^ 1 << int(rng.integers(8))]) + content[begin + 1 :]
        case 3:
            return content[:begin] + bytes([int(rng.choice([0, 255]))]) * length + content[begin + length :]
        case _:
            return content[: begin + length] + content[begin:]


@pytest.mark.parametrize("kind", formats())
def test_whatever_happens_to_a_file_it_is_a_picture_or_an_oserror(kind: str, monkeypatch: Patch, capfd: Any) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10**6)
    content, rng = formats()[kind], np.random.default_rng(0)
    assert read(content).size in ((51, 36), (36, 51), (17, 12), (32, 23))
    refused = 0
    with quiet():
        for number in range(200):
            try:
                spoilt = damaged(content, rng)
                assert extremes(spoilt) is None or read(spoilt)
                picture = eight_bits(read(spoilt), None)
            except OSError as error:
                refused += 1
                assert 0 < len(reason_of(error)) <= 120 and "\n" not in reason_of(error), number
            else:
                assert picture.mode in ("L", "RGB") and to_pixels(picture, (1, 8, 8)).shape == (1, 8, 8)
    assert refused
    assert capfd.readouterr() == ("", "")


ERRORS = [
    struct.error("a"),
    NotImplementedError("b"),
    KeyError(65),
    TypeError("c"),
    IndexError("d"),
    OverflowError("e"),
    MemoryError(),
    SyntaxError("f"),
    AssertionError(),
    RuntimeError("g\nh"),
    EOFError(),
    RecursionError("i"),
    PIL.Image.DecompressionBombError("j"),
    PIL.Image.DecompressionBombWarning("k"),
]


@pytest.mark.parametrize("where", ["open", "load"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_pillow_raises_is_an_oserror_with_a_reason(where: str, error: Exception, monkeypatch: Patch) -> None:
    content = saved(PIL.Image.fromarray(GREYS), "PNG")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PIL.Image if where == "open" else PIL.Image.Image, where, fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert " ".join(str(error).split()) in refusal(content)


def test_a_person_who_interrupts_is_heard(monkeypatch: Patch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read(saved(PIL.Image.fromarray(GREYS), "PNG"))


def box(brand: bytes, *others: bytes) -> bytes:
    """What a file of ISO's media format begins with (ISO/IEC 14496-12, 4.3)."""
    inside = b"ftyp" + brand + bytes(4) + b"".join(others)
    return struct.pack(">I", 4 + len(inside)) + inside + bytes(100)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"a,b\n1,2\n", "no picture"),
        (b'{"a": [1, 2]}', "no picture"),
        (b"hello " * 1000, "no picture"),
        (bytes(1000), "no picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG, damaged or of a kind that Pillow does not read"),
        (box(b"isom", b"mp41"), "no picture"),
        (b"\xff" * 4 + b"ftypisom" + bytes(100), "no picture"),
    ],
)
def test_what_is_no_picture_is_refused_in_few_words(content: bytes, reason: str) -> None:
    assert refusal(content) == reason


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"mif1", b"heic"), (b"heix",), (b"msf1", b"hevc")])
def test_heic_names_its_package_and_is_read_where_that_is_installed(brands: tuple[bytes], monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert refusal(box(*brands)) == "HEIC, which needs a package: pip install pillow-heif"
    monkeypatch.undo()

    def register() -> None:
        """As the real one does, here with a decoder of one grey picture."""
        PIL.Image.register_open("HEIF", lambda *_: PIL.Image.fromarray(GREYS), lambda head: head[4:8] == b"ftyp")  # type: ignore[arg-type]

    module = types.ModuleType("pillow_heif")
    module.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image, "ID", [*PIL.Image.ID])
        patch.setattr(PIL.Image, "OPEN", {**PIL.Image.OPEN})
        assert np.array_equal(values_of(read(box(*brands))), GREYS)


def test_avif_names_its_package_where_pillow_has_none(monkeypatch: Patch) -> None:
    monkeypatch.setattr(PIL.features, "check", lambda _: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert refusal(box(b"avif", b"mif1")) == "AVIF, which needs a package: pip install pillow-avif-plugin"


# EXIF.

TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def exif_of(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of one directory: tag, type, count and value of each entry (TIFF 6.0, section 2)."""
    packed = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("values", [GREYS, COLOURS, GREYS.astype(np.uint16) * 256], ids=["L", "RGB", "16 bits"])
def test_a_picture_is_turned_as_its_exif_data_say(orientation: int, values: np.ndarray[Any, Any]) -> None:
    picture = PIL.Image.fromarray(values)
    content = saved(picture, "PNG", exif=exif_of((0x112, 3, 1, struct.pack("<HH", orientation, 0))))
    expected = picture.transpose(TURNS[orientation]) if orientation in TURNS else picture
    assert np.array_equal(values_of(read(content)), values_of(expected))


BAD_EXIF = {
    "a width as text": (exif_of((0x100, 2, 4, b"128\0"), (0x112, 3, 1, b"\6\0\0\0")), True),
    "cut": (exif_of((0x112, 3, 1, b"\6\0\0\0"))[:20], False),
    "nothing": (b"Exif\0\0", False),
    "no TIFF": (b"Exif\0\0hello, this is no TIFF at all", False),
    "turned by a text": (exif_of((0x112, 2, 4, b"six\0")), False),
    "turned by a float": (exif_of((0x112, 11, 1, struct.pack("<f", 6.0))), False),
    "far away": (b"Exif\0\0II*\0\xff\xff\xff\x7f", False),
    "endless": (b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40), False),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", BAD_EXIF)
def test_a_good_picture_with_damaged_exif_data_is_kept(kind: str, name: str) -> None:
    if kind == "WEBP" and not PIL.features.check("webp"):
        pytest.skip("Pillow has no WebP here")
    exif, turned = BAD_EXIF[name]
    plain = saved(PIL.Image.fromarray(COLOURS), kind)
    expected = read(plain).transpose(Transpose.ROTATE_270) if turned else read(plain)
    with quiet():
        assert np.array_equal(
            values_of(read(saved(PIL.Image.fromarray(COLOURS), kind, exif=exif))), values_of(expected)
        )


# Modes of 8 bits, by formulas from their definition, not from Pillow's.


def grey_of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """ITU-R 601-2 luma, as 8-bit grey is defined."""
    return np.asarray(values, dtype=np.float64) @ (0.299, 0.587, 0.114)


def on_white(values: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    share = alpha[..., None] / 255 if values.ndim == 3 else alpha / 255
    return values * share + 255.0 * (1 - share)


ALPHA = RNG.integers(0, 256, (12, 17), dtype=np.uint8)
INDICES = RNG.integers(0, 4, (12, 17), dtype=np.uint8)
PALETTE = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 250], [90, 90, 90]], dtype=np.uint8)


def with_palette() -> Image:
    picture = PIL.Image.fromarray(INDICES, "P")
    picture.putpalette(PALETTE.tobytes())
    return picture


MODES: dict[str, tuple[bytes, np.ndarray[Any, Any]]] = {
    "1": (saved(PIL.Image.fromarray(GREYS > 127), "PNG"), 255 * (GREYS > 127)),
    "L": (saved(PIL.Image.fromarray(GREYS), "PNG"), GREYS),
    "RGB": (saved(PIL.Image.fromarray(COLOURS), "PNG"), COLOURS),
    "LA": (
        saved(PIL.Image.merge("LA", [PIL.Image.fromarray(GREYS), PIL.Image.fromarray(ALPHA)]), "PNG"),
        np.repeat(on_white(GREYS, ALPHA)[..., None], 3, -1),
    ),
    "RGBA": (saved(PIL.Image.fromarray(np.dstack([COLOURS, ALPHA])), "PNG"), on_white(COLOURS, ALPHA)),
    "P": (saved(with_palette(), "PNG"), PALETTE[INDICES]),
    "P, one transparent": (
        saved(with_palette(), "PNG", transparency=2),
        np.where((INDICES == 2)[..., None], 255, PALETTE[INDICES]),
    ),
    "RGB, one transparent": (
        saved(with_palette().convert("RGB"), "PNG", transparency=(0, 200, 0)),
        np.where((INDICES == 1)[..., None], 255, PALETTE[INDICES]),
    ),
    "CMYK": (
        saved(PIL.Image.fromarray(np.dstack([COLOURS, 0 * ALPHA]), "CMYK"), "TIFF"),
        255 - COLOURS.astype(int),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_what_a_person_sees(mode: str) -> None:
    content, expected = MODES[mode]
    picture = read(content)
    assert picture.mode == ("L" if expected.ndim == 2 else "RGB") and extremes(content) is None
    # Blending and converting round once each.
    assert np.abs(np.asarray(picture, dtype=np.float64) - expected).max() <= 1
    grey = to_pixels(picture, (1, 12, 17))[0].numpy()
    assert np.abs(grey - (grey_of(expected) if expected.ndim == 3 else expected)).max() <= 1.5
    assert eight_bits(picture, (3.0, 4.0)) is picture


# More than 8 bits.

DEEP = RNG.integers(0, 3000, (12, 17))


def tiff(values: np.ndarray[Any, Any], nodata: str | None = None) -> bytes:
    info = PIL.TiffImagePlugin.ImageFileDirectory_v2()
    if nodata is not None:
        info[42113] = nodata
    return saved(PIL.Image.fromarray(values), "TIFF", tiffinfo=info)


def by_hand(values: np.ndarray[Any, Any], low: float, high: float) -> list[list[int]]:
    """The rule as docs/images.md states it, a number at a time."""
    return [[round(255 * (min(max(float(value), low), high) - low) / (high - low)) for value in row] for row in values]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bits_are_scaled_by_the_range_that_is_given(kind: str) -> None:
    if kind == "JPEG2000" and not PIL.features.check("jpg_2000"):
        pytest.skip("Pillow has no JPEG 2000 here")
    content = saved(PIL.Image.fromarray(DEEP.astype(np.uint16)), kind)
    assert extremes(content) == (DEEP.min(), DEEP.max())
    for low, high in ((100.0, 2500.0), (0.0, 65535.0), (17.25, 355.5)):
        found = np.asarray(eight_bits(read(content), (low, high))).astype(int)
        assert np.abs(found - by_hand(DEEP, low, high)).max() <= (np.abs(found).max() > 0)  # halves may round up
        assert (found != by_hand(DEEP, low, high)).mean() < 0.01
    assert np.array_equal(values_of(eight_bits(read(content), None)), by_hand(DEEP, 0, 65535))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("type_", ["u2", "i4", "f4"])
def test_each_type_of_a_tiff_keeps_its_values(order: str, type_: str) -> None:
    values = (DEEP * (2**20 if type_ == "i4" else 1) - (1500 if type_ != "u2" else 0)).astype(type_)
    info = {"u2": (16, 1), "i4": (32, 2), "f4": (32, 3)}[type_]
    content = raw_tiff(values.astype(order + type_), order, *info)
    assert extremes(content) == (float(values.min()), float(values.max()))
    low, high = np.percentile(values, [10, 90])
    assert np.array_equal(values_of(eight_bits(read(content), (low, high))), by_hand(values, low, high))


def raw_tiff(values: np.ndarray[Any, Any], order: str, bits: int, sample_format: int) -> bytes:
    """A TIFF written by hand (TIFF 6.0, section 2)."""
    data, (height, width) = values.tobytes(), values.shape
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries += [(279, len(data)), (339, sample_format)]
    packed = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(entries)) + packed + bytes(4)


def test_unsigned_32_bits_are_not_taken_for_signed() -> None:
    values = (DEEP.astype(np.uint64) * 1_400_000).astype("<u4")
    assert values.max() > 2**31
    content = raw_tiff(values, "<", 32, 1)
    assert extremes(content) == pytest.approx((values.min(), values.max()), rel=1e-7)  # float32
    found = np.asarray(eight_bits(read(content), (0.0, 4e9))).astype(int)
    assert np.abs(found - by_hand(values, 0, 4e9)).max() <= 1


def test_what_is_no_number_or_no_data_is_dark_and_not_of_the_range() -> None:
    values = np.array([[0.5, np.nan, np.inf], [-np.inf, 0.25, 0.75]], dtype=np.float32)
    content = tiff(values)
    assert extremes(content) == (0.25, 0.75)
    assert np.asarray(eight_bits(read(content), (0.25, 0.75))).tolist() == [[128, 0, 255], [0, 0, 255]]
    for type_, nodata in ((np.float32, "-9999"), (np.int32, "-9999"), (np.uint16, "65535"), (np.float32, "nan")):
        holes = DEEP.astype(type_)
        holes[2:5, 3] = float(nodata)
        content = tiff(holes, nodata)
        assert extremes(content) == (DEEP.min(), DEEP.max()), type_
        dark = np.asarray(eight_bits(read(content), (float(DEEP.min()), float(DEEP.max()))))
        assert not dark[2:5, 3].any() and dark.max() == 255
    assert extremes(tiff(DEEP.astype(np.uint16), "none")) == (DEEP.min(), DEEP.max())
    largest = np.full((4, 4), np.finfo(np.float32).min, np.float32)
    assert extremes(tiff(largest, "-3.40282346638529e+38")) is None  # as GDAL writes it: no number is left


def test_a_large_picture_is_scaled_as_a_small_one_is() -> None:
    values = RNG.integers(0, 3000, (2100, 1000)).astype(np.uint16)  # more than is scaled at a time
    content = saved(PIL.Image.fromarray(values), "PNG", compress_level=1)
    assert extremes(content) == (values.min(), values.max())
    found = values_of(eight_bits(read(content), (0.0, 3000.0)))
    assert np.abs(found - values * 255.0 / 3000).max() <= 0.5 + 1e-9


def test_very_large_pictures_are_decoded_one_at_a_time_and_kept_smaller(monkeypatch: Patch) -> None:
    monkeypatch.setattr(pictures, "LARGE", 1000)
    ramp = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)
    content, small = saved(PIL.Image.fromarray(ramp), "PNG"), saved(PIL.Image.fromarray(ramp[:12]), "PNG")
    decode, alone = pictures.upright, []

    def noted(picture: Image, *paper: Any) -> Image:
        alone.append(pictures._decoding_large.locked())
        return decode(picture, *paper)

    monkeypatch.setattr(pictures, "upright", noted)
    found = [read(content), read(small), read(content)]
    assert alone == [True, False, True] and [picture.size for picture in found] == [(27, 20), (80, 12), (27, 20)]
    whole = to_pixels(PIL.Image.fromarray(ramp), (1, 12, 16)).int()
    assert (to_pixels(found[0], (1, 12, 16)).int() - whole).abs().max() <= 2


@pytest.mark.parametrize("where", ["load", "transpose", "convert"])
def test_what_does_not_fit_into_memory_says_so(monkeypatch: Patch, where: str) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    exif = PIL.Image.Exif()
    exif[274] = 6
    content = saved(PIL.Image.fromarray(COLOURS).convert("P"), "PNG", exif=exif)
    with PIL.Image.open(io.BytesIO(content)) as opened:
        for kind in (type(opened), Image):
            monkeypatch.setattr(kind, where, fail)
    with pytest.raises(OSError, match="too large for this machine's memory"):
        read(content)


def test_floats_from_0_to_1_are_taken_as_that_where_no_range_is_known() -> None:
    values = np.array([[0, 0.5, 1, 2]], dtype=np.float32)
    assert np.asarray(eight_bits(read(tiff(values)), None)).tolist() == [[0, 128, 255, 255]]


def test_the_range_leaves_out_a_few_strange_pictures() -> None:
    minima, maxima = list(range(100)), list(range(1000, 1100))
    assert pixel_range(minima, maxima) == pytest.approx((4.95, 1094.05))
    assert pixel_range([*minima, -1e9], [*maxima, 1e9]) == pytest.approx((4, 1096), abs=1)
    assert pixel_range([], []) is None
    for constant in (0.0, -5.0, 1e30):
        low, high = pixel_range([constant], [constant])  # type: ignore[misc]
        assert low == constant < high


# Shapes.


@pytest.mark.parametrize("size", [(8, 8), (10, 20), (20, 10), (20, 19), (13, 17)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_up_to_twice_as_long_as_wide_it_is_the_middle(size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    picture = PIL.Image.effect_noise(size, 100)
    fitted = PIL.ImageOps.fit(picture.convert("L" if shape[0] == 1 else "RGB"), (8, 8), Resampling.BICUBIC)
    expected = np.asarray(fitted) if shape[0] == 1 else np.asarray(fitted).transpose(2, 0, 1)
    assert np.array_equal(to_pixels(picture, shape).reshape(expected.shape), expected)


@pytest.mark.parametrize("size", [(21, 10), (10, 21), (400, 4), (1, 9), (3000, 1)])
def test_what_is_longer_keeps_its_ends(size: tuple[int, int]) -> None:
    values = np.zeros((size[1], size[0]), np.uint8)
    ends = -(-max(size) // 8)  # an eighth at the beginning is light, the rest is dark
    values[tuple(slice(0, ends) if side == max(size) else slice(None) for side in values.shape)] = 255
    pixels = to_pixels(PIL.Image.fromarray(values), (1, 8, 8))[0]
    lines = pixels if size[0] < size[1] else pixels.T
    assert lines[0].min() > 200 and lines[2:].max() < 60
    assert torch.equal(pixels, to_pixels(PIL.Image.fromarray(values), (3, 8, 8))[1])


def test_how_long_is_long_follows_the_models_own_shape() -> None:
    values = RNG.integers(0, 256, (10, 80), dtype=np.uint8)
    wide = to_pixels(PIL.Image.fromarray(values), (1, 5, 20))  # itself four times as wide as high
    fitted = PIL.ImageOps.fit(PIL.Image.fromarray(values), (20, 5), Resampling.BICUBIC)
    assert np.array_equal(wide[0], values_of(fitted))


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_picture(tmp_path / "gone.png")
    assert reason_of(caught.value) == "No such file or directory"
