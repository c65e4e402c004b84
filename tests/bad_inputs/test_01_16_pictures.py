"""Rows 1 to 16: single pictures that are broken, hostile or unusual, as a user of the reader meets them."""

import base64
import io
import json
import math
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from pictures import (
    ORIENTATION,
    UPRIGHT,
    chunk,
    encode,
    jpeg_segment,
    png,
    png_16_bit,
    random_pixels,
    smooth_pixels,
    tiff,
    with_segment,
)
from PIL import Image, features
from typer.testing import CliRunner

from fewshot import read_image
from fewshot.cli.root import app
from fewshot.errors import ImageError, InvalidInputError
from fewshot.images.reader import examine, read_payload

WHITE = [255, 255, 255]
LIMITED = 600 << 20  # bytes of address space for what must not need it

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAA"
    "AERAAAEAAQAAAAABegABAAAAAAAAANkAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3"
    "aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAA"
    "AwAeoDCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABgAAAAQAAAABBw"
    "aXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAAOFtZGF0AAAA1SgBrwng40ibUR///e4E//9qF9D/WP+B5k8i/0dEt/wJiP/okT2E"
    "yuy2ecikTCHr3e++Qe7p1gK1ckiBLw+G/AHIeiYlqgRgB6ZryFJ9XKi5WBmqvbNSt36tezY9wP7ra7pkE6SivLf/6EhvH9Ht3/+9OAUkvVnIggMT"
    "CAtnXZ8sVcStH7VZxuZUV4o8T4/pLy4XDs27wL5S6uKIcsToXVNCfvsjEm3zbeU6M3cf7m7lW3yuy/44kbeJbNA+yfGjb7f/Ak90skgg+4XxNWHC"
    "uAn//4CP/A=="
)
"""Four quarters in red, green, blue and white, 96x64, made for this test."""


def refusal(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    return caught.value


def findings_of(source):
    return {finding.code: finding for finding in examine(read_payload(source))[1]}


def saved(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


# 1


def test_01_zero_bytes_are_empty(tmp_path):
    path = saved(tmp_path, "nothing.jpg", b"")
    error = refusal(path)
    assert error.code == "EMPTY"
    assert str(path) in str(error)


# 2


@pytest.mark.parametrize("options", [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})], ids=str)
def test_02_a_cut_picture_is_truncated_wherever_it_was_cut(options):
    content = encode(random_pixels(60, 80), options[0], **options[1])
    for length in range(len(content) // 3, len(content) - 20, len(content) // 9):
        assert refusal(content[:length]).code == "TRUNCATED"


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("GIF", {"interlace": 0}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
    ],
)
def test_02_a_part_is_given_only_when_it_is_asked_for(format_, options):
    pixels = smooth_pixels(64, 64)
    content = encode(pixels, format_, **options)
    half = content[: len(content) * 6 // 10]
    assert refusal(half).code == "TRUNCATED"
    whole, part = read_image(content), read_image(half, partial=True)
    assert part.shape == whole.shape
    there = np.abs(part.astype(int) - whole).max(axis=(1, 2)) <= 2
    rows = int(there.sum())
    assert 10 <= rows < 64
    # Bitmaps are stored from the bottom up.
    assert there[-rows + 1 :].all() if format_ == "BMP" else there[: rows - 1].all()
    (finding,) = examine(read_payload(half), partial=True)[1]
    assert (finding.code, finding.severity) == ("PARTIAL", "warning")


def test_02_a_whole_picture_is_the_same_when_parts_are_allowed():
    for format_ in ("JPEG", "PNG", "WEBP", "TIFF"):
        content = encode(smooth_pixels(), format_)
        np.testing.assert_array_equal(read_image(content, partial=True), read_image(content))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_02_where_nothing_is_left_there_is_no_part_either(format_):
    content = encode(random_pixels(60, 80), format_)
    assert refusal(content[:60], partial=True).code == "TRUNCATED"


def test_02_a_broken_picture_is_no_part_of_one():
    # Some rows decode before the damage.
    content = bytearray(encode(random_pixels(200, 200)))
    middle = len(content) // 2
    content[middle : middle + 300] = b"\xff" * 300
    assert refusal(bytes(content), partial=True).code == "CORRUPT"


# 3


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<!DOCTYPE html>\n<html><body>404 Not Found", "an HTML page"),
        (b'{"message": "rate limit exceeded"}', "JSON"),
        (b"%PDF-1.4", "a PDF"),
        (b"just words", "a text file"),
    ],
)
def test_03_a_web_page_saved_as_a_picture_is_called_what_it_is(tmp_path, content, kind):
    error = refusal(saved(tmp_path, "download.jpg", content))
    assert error.code == "NOT_AN_IMAGE"
    assert kind in str(error)


# 4


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO"])
def test_04_the_content_decides_whatever_the_suffix_says(tmp_path, format_):
    content = encode(smooth_pixels(32, 32), format_)
    wrong = saved(tmp_path, "picture.png" if format_ != "PNG" else "picture.jpg", content)
    np.testing.assert_array_equal(read_image(wrong), read_image(content))
    finding = findings_of(wrong)["OTHER_FORMAT"]
    assert (finding.severity, finding.images) == ("info", (str(wrong),))
    assert format_ in finding.message


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.jfif", "a", "a.dat"])
def test_04_a_right_suffix_or_none_is_not_remarked_on(tmp_path, name):
    assert findings_of(saved(tmp_path, name, encode(smooth_pixels(), "JPEG"))) == {}


# 5


def _webp_bomb():
    canvas = (16383 - 1).to_bytes(3, "little")
    parts = b"WEBPVP8X" + struct.pack("<L", 10) + bytes(4) + canvas + canvas
    frame = encode(random_pixels(), "WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<L", len(parts) + len(frame)) + parts + frame


def _jpeg2000_bomb():
    # The box says 14x9, the codestream 60,000x60,000.
    content = bytearray(encode(random_pixels(), "JPEG2000"))
    struct.pack_into(">LL", content, content.index(b"\xff\x4f\xff\x51") + 8, 60_000, 60_000)
    return bytes(content)


def _avif_bomb():
    content = bytearray(encode(random_pixels(16, 16), "AVIF"))
    struct.pack_into(">LL", content, content.index(b"ispe") + 8, 30_000, 30_000)
    return bytes(content)


def _icon_bomb(inner):
    return struct.pack("<HHHBBBBHHLL", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


def _jpeg_bomb():
    content = bytearray(encode(random_pixels(), "JPEG"))
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, 30_000, 30_000)
    return bytes(content)


def _gif_bomb(first_frame):
    content = bytearray(encode(random_pixels(), "GIF"))
    at = content.index(b"\x2c\0\0\0\0\x0e") + 5 if first_frame else 6
    struct.pack_into("<HH", content, at, 30_000, 30_000)
    return bytes(content)


def _tiff_bomb(**tags):
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "strips": 273}
    numbers |= {"rows": 278, "sizes": 279, "tile_width": 322, "tile_height": 323, "tiles": 324, "tile_sizes": 325}
    values = {"width": 64, "height": 64, "bits": 8, "compression": 1, "photometric": 1} | tags
    return tiff([(numbers[name], 4, 1, value) for name, value in values.items()], bytes(5000))


BOMBS = {
    "PNG": lambda: png(30_000, 30_000),
    "PNG of one row": lambda: png(2**31 - 1, 1),
    "JPEG": _jpeg_bomb,
    "GIF canvas": lambda: _gif_bomb(False),
    "GIF frame": lambda: _gif_bomb(True),
    "BMP": lambda: b"BM" + struct.pack("<LLLLllHHLLLLLL", 100, 0, 54, 40, 30_000, -30_000, 1, 24, *[0] * 6),
    "BMP without a file header": lambda: struct.pack("<LllHHLLLLLL", 40, 30_000, 30_000, 1, 24, *[0] * 6),
    "WebP canvas": _webp_bomb,
    "TIFF": lambda: _tiff_bomb(width=30_000, height=30_000, strips=200, rows=30_000, sizes=900_000_000),
    "TIFF tile": lambda: _tiff_bomb(
        tile_width=65_536, tile_height=65_536, tiles=200, tile_sizes=9000, compression=5, bits=1
    ),
    "PPM": lambda: b"P6 30000 30000 255\n",
    "PPM of plain text": lambda: b"P3\n99999999999 99999999999\n255\n",
    "JPEG 2000 codestream": _jpeg2000_bomb,
    "icon": lambda: _icon_bomb(png(30_000, 30_000)),
    "icon of a bitmap": lambda: _icon_bomb(struct.pack("<LllHHLLLLLL", 40, 30_000, 60_000, 1, 24, *[0] * 6)),
} | ({"AVIF": _avif_bomb} if features.check("avif") else {})


@pytest.mark.parametrize("bomb", BOMBS)
def test_05_a_bomb_is_refused_from_its_header(bomb):
    start = time.process_time()
    error = refusal(BOMBS[bomb]())
    assert error.code == "TOO_LARGE"
    assert time.process_time() - start < 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")
def test_05_no_bomb_takes_memory_before_it_is_refused(tmp_path):
    for number, bomb in enumerate(BOMBS):
        (tmp_path / f"{number}").write_bytes(BOMBS[bomb]())
    script = (
        "import resource, sys, pathlib\n"
        "from fewshot import read_image\n"
        "from fewshot.errors import ImageError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: read_image(path)\n"
        "    except ImageError as error: assert error.code == 'TOO_LARGE', error\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50_000  # KiB; the decoders' code is loaded meanwhile


def test_05_the_limit_is_an_argument_or_the_environments(monkeypatch):
    content = encode(random_pixels(10, 20))
    assert read_image(content, max_pixels=200).shape == (10, 20, 3)
    assert refusal(content, max_pixels=199).code == "TOO_LARGE"
    monkeypatch.setenv("FEWSHOT_MAX_PIXELS", "199")
    error = refusal(content)
    assert error.code == "TOO_LARGE"
    assert all(word in str(error) for word in ("20x10", "199", "FEWSHOT_MAX_PIXELS"))
    assert read_image(content, max_pixels=200).shape == (10, 20, 3)


@pytest.mark.parametrize("limit", ["many", "0", "-5", "1e9", "2.5"])
def test_05_a_limit_that_is_no_number_of_pixels_is_an_error(monkeypatch, limit):
    monkeypatch.setenv("FEWSHOT_MAX_PIXELS", limit)
    with pytest.raises(InvalidInputError, match=f"FEWSHOT_MAX_PIXELS='{limit}'.*whole number"):
        read_image(encode(random_pixels()))


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "GIF", "TIFF"])
def test_05_a_raised_limit_works_without_touching_pillow(monkeypatch, format_):
    # As a picture of 100 million pixels would be for Pillow's real limit, but in a moment.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("fewshot.images.limits.MAX_PIXELS", 1000)
    pixels = random_pixels(100, 100, seed=3)
    content = encode(pixels, format_, **({"lossless": True} if format_ == "WEBP" else {}))
    assert refusal(content).code == "TOO_LARGE"
    assert read_image(content, max_pixels=10_000).shape == (100, 100, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_05_a_file_larger_than_any_allowed_picture_is_not_read(tmp_path):
    path = tmp_path / "endless.jpg"
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        os.truncate(path, 100_000_000_000)
    error = refusal(path)
    assert error.code == "TOO_LARGE"
    assert "100000000000 bytes" in str(error)


def test_05_a_large_file_that_is_no_picture_is_told_from_its_beginning(tmp_path):
    path = tmp_path / "film.jpg"
    path.write_bytes(b"\x1aE\xdf\xa3" * 3)
    os.truncate(path, 1_000_000_000)
    start = time.process_time()
    assert refusal(path).code == "NOT_AN_IMAGE"
    assert time.process_time() - start < 5


# 6


def _compressed_text(kind, head):
    return chunk(kind, head + zlib.compress(bytes(50_000_000), 9))


@pytest.mark.parametrize(
    ("place", "bomb"),
    [
        ("before", (b"zTXt", b"comment\0\0")),
        ("after", (b"zTXt", b"comment\0\0")),
        ("before", (b"iTXt", b"comment\0\1\0\0\0")),
        ("before", (b"iCCP", b"profile\0\0")),
    ],
)
def test_06_a_text_bomb_in_a_png_is_refused(place, bomb):
    rows = (b"\0" + bytes(30)) * 10
    content = png(10, 10, rows, **{place: [_compressed_text(*bomb)]})
    error = refusal(content)
    assert error.code == "TOO_LARGE"
    assert read_image(png(10, 10, rows)).shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript"),
        (b"SIMPLE  =                    T" + b" " * 2850, "FITS"),
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
    ],
)
def test_06_formats_with_a_history_are_off_and_nothing_is_started(monkeypatch, content, kind):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    error = refusal(content)
    assert error.code == "UNSUPPORTED_FORMAT"
    assert kind in str(error)
    assert "JPEG or PNG" in str(error)


def test_06_formats_that_pillow_would_read_are_off_unless_they_are_listed():
    for format_ in ("TGA", "PCX", "SGI", "DDS"):
        assert refusal(encode(random_pixels(), format_)).code == "NOT_AN_IMAGE"


def test_06_a_tiff_whose_tags_all_name_the_same_data_is_not_unpacked():
    size = 1 << 20
    start = 8 + 2 + 12 * 4000 + 4
    entries = [(number, 7, size, start) for number in range(1000, 4995)]
    entries += [(256, 4, 1, 8), (257, 4, 1, 8), (258, 4, 1, 8), (262, 4, 1, 1), (273, 4, 1, 8)]
    _in_limited_memory(tiff(entries, bytes(size)))


def test_06_exif_data_whose_tags_all_name_the_same_data_is_not_unpacked():
    size = 1 << 20
    entries = [(number, 7, size, 8 + 2 + 12 * 4000 + 4) for number in range(1000, 5000)]
    content = png(10, 10, (b"\0" + bytes(30)) * 10, before=[chunk(b"eXIf", tiff(entries, bytes(size)))])
    _in_limited_memory(content, allowed=(None,))


def test_06_a_tiff_of_a_million_strips_is_refused():
    assert refusal(_tiff_bomb(height=4_000_000, strips=200, rows=1)).code in ("TOO_LARGE", "CORRUPT", "TRUNCATED")
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1)]
    content = tiff([*entries, (273, 4, 1_000_000, 100)], bytes(4_000_100))
    assert refusal(content).code == "TOO_LARGE"


def test_06_a_jpeg_of_thousands_of_scans_is_refused():
    content = encode(smooth_pixels(), "JPEG", progressive=True)
    end = content.rindex(b"\xff\xda")
    bomb = content[:end] + content[end:-2] * 5000 + b"\xff\xd9"
    start = time.process_time()
    error = refusal(bomb)
    assert error.code == "TOO_LARGE"
    assert "scans" in str(error)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("segment", [jpeg_segment(0xE5, b""), jpeg_segment(0xE1, b"Exif\0\0" + bytes(9000))])
def test_06_a_jpeg_of_too_many_segments_is_refused(segment):
    content = encode(smooth_pixels(), "JPEG")
    start = time.process_time()
    assert refusal(content[:2] + segment * (40_000_000 // len(segment)) + content[2:]).code == "TOO_LARGE"
    assert time.process_time() - start < 10
    assert read_image(content[:2] + segment * 50 + content[2:]).shape == (48, 64, 3)


def _runs(width, height, data):
    info = struct.pack("<LllHHLLllLL", 40, width, height, 1, 8, 1, 0, 0, 0, 4, 0)
    palette = bytes([0, 0, 250, 0, 0, 250, 0, 0, 250, 0, 0, 0, 9, 9, 9, 0])  # red, green, blue, grey as BGR
    return b"BM" + struct.pack("<LLL", 70 + len(data), 0, 70) + info + palette + data


def test_06_a_large_bitmap_of_runs_is_refused():
    # Each "end of line" makes Python fill a line, pixel by pixel: four bytes for a picture's width of work.
    error = refusal(_runs(9000, 9000, b"\1\0\0\0" * 9000 + b"\0\1"))
    assert error.code == "TOO_LARGE"
    assert "PNG" in str(error)
    small = _runs(4, 2, b"\2\0\2\1\0\0" + b"\4\2\0\0" + b"\0\1")
    assert read_image(small).tolist() == [[[0, 0, 250]] * 4, [[250, 0, 0]] * 2 + [[0, 250, 0]] * 2]


def _in_limited_memory(content, allowed=(None, "TOO_LARGE", "CORRUPT", "TRUNCATED", "NOT_AN_IMAGE")):
    """Read in a process that soon has no memory left; give the reason code, or None for pixels."""
    script = (
        "import resource, sys\n"
        "from fewshot.errors import ImageError\n"
        "from fewshot import read_image\n"
        "import PIL.Image; PIL.Image.init()\n"
        "content, code = sys.stdin.buffer.read(), None\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (300 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "try: read_image(content)\n"
        "except ImageError as error:\n"
        "    code = error.code\n"
        "    assert 'memory' not in str(error), error\n"
        "print(code)\n"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("limits of memory as Linux has them")
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() in [str(code) for code in allowed]


# 7


@pytest.mark.parametrize(
    ("size", "code"), [((1, 1), "TINY"), ((7, 7), "TINY"), ((1, 5000), "THIN"), ((5000, 1), "THIN")]
)
def test_07_tiny_and_thin_pictures_are_read_with_a_warning(tmp_path, size, code):
    pixels = random_pixels(*size)
    path = saved(tmp_path, "odd.png", encode(pixels))
    np.testing.assert_array_equal(read_image(path), pixels)
    found = findings_of(path)
    assert list(found) == [code]
    assert (found[code].severity, found[code].images) == ("warning", (str(path),))
    assert f"{size[1]}x{size[0]}" in found[code].message
    assert list(findings_of(pixels)) == [code]


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (40, 800)])
def test_07_small_and_long_pictures_are_ordinary(size):
    assert findings_of(random_pixels(*size)) == {}


# 8


def test_08_grey_one_bit_and_palette_pictures_are_converted():
    grey = random_pixels(channels=1)[:, :, 0]
    np.testing.assert_array_equal(read_image(encode(grey)), np.stack([grey] * 3, axis=2))
    bits = grey > 99
    np.testing.assert_array_equal(read_image(encode(bits)), np.stack([bits * np.uint8(255)] * 3, axis=2))
    for format_ in ("TIFF", "BMP", "PPM"):
        np.testing.assert_array_equal(read_image(encode(bits, format_))[:, :, 0], bits * 255)


def test_08_grey_with_alpha_is_composited():
    values = random_pixels(channels=2)
    alpha = values[:, :, 1] / 255
    expected = alpha * values[:, :, 0] + (1 - alpha) * 255
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    result = read_image(png(14, 9, rows, colour=4))
    assert np.abs(result - expected[:, :, None]).max() <= 1


def test_08_a_palette_goes_through_rgba_so_that_transparent_entries_are_kept():
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
    alpha = chunk(b"tRNS", bytes([255, 0, 128]))
    result = read_image(png(3, 1, b"\0\0\1\2", colour=3, before=[palette, alpha]))[0].tolist()
    assert result[:2] == [[10, 20, 30], WHITE]
    half = [round(v * 128 / 255 + 255 * 127 / 255) for v in (70, 80, 90)]
    assert np.abs(np.subtract(result[2], half)).max() <= 1
    assert read_image(png(3, 1, b"\0\0\1\2", colour=3, before=[palette]))[0].tolist()[1] == [40, 50, 60]


# 9


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_09_transparency_is_composited_on_white(format_):
    pixels = random_pixels(channels=4, seed=8)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    alpha = pixels[:, :, 3:] / 255
    expected = alpha * pixels[:, :, :3] + (1 - alpha) * 255
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    result = read_image(encode(pixels, format_, **options))
    assert np.abs(result - expected).max() <= 1
    assert (result[0] == 255).all()
    np.testing.assert_array_equal(result[1], pixels[1, :, :3])


# 10


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 200, 90, 0), (0, 0, 0, 255), (40, 100, 20, 60)])
def test_10_cmyk_is_converted_and_adobes_inverted_files_are_right(ink):
    image = Image.new("CMYK", (16, 16), ink)
    black = 1 - ink[3] / 255
    expected = np.array([255 * (1 - value / 255) * black for value in ink[:3]])
    assert np.abs(read_image(encode(image, "TIFF")) - expected).max() <= 1
    adobe = encode(image, "JPEG", quality=100, subsampling=0)
    assert np.abs(read_image(adobe) - expected).max() <= 4
    # Pillow writes, as Adobe does, inverted values under this marker.
    assert b"Adobe" in adobe


def _srgb_of_lab(lightness, a, b):
    """CIE L*a*b* (D50) to sRGB, by the formulas of the CIE and of IEC 61966-2-1, adapted to D65 after Bradford."""
    y = (lightness + 16) / 116
    x, z = y + a / 500, y - b / 200
    xyz = [
        white * (t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29))
        for white, t in zip((0.96422, 1.0, 0.82521), (x, y, z), strict=True)
    ]
    to_linear = np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540]])
    to_linear = np.vstack([to_linear, [0.0719453, -0.2289914, 1.4052427]])
    linear = np.clip(to_linear @ xyz, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "lab", [(100, 0, 0), (0, 0, 0), (50, 0, 0), (54, 60, 40), (70, -40, 30), (30, 20, -50), (80, 5, 60)]
)
def test_10_lab_is_converted_to_srgb(lab):
    stored = np.array([round(lab[0] * 2.55), lab[1] % 256, lab[2] % 256], np.uint8)
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 3, 300), (259, 3, 1, 1), (262, 3, 1, 8), (273, 4, 1, 400)]
    entries += [(277, 3, 1, 3), (278, 4, 1, 8), (279, 4, 1, 192)]
    content = bytearray(tiff(entries, bytes(600)))
    content[300:306] = struct.pack("<3H", 8, 8, 8)
    content[400:592] = stored.tobytes() * 64
    expected = _srgb_of_lab(round(lab[0] * 2.55) / 2.55, *lab[1:])
    # The conversion goes by a table, and is interpolated in it.
    assert np.abs(read_image(bytes(content))[4, 4] - expected).max() <= 5


# 11


RAMP = np.linspace(0, 65535, 9360).round().astype(np.uint16).reshape(90, 104)


@pytest.mark.parametrize(
    "content",
    [
        png_16_bit(RAMP),
        encode(Image.fromarray(RAMP), "TIFF"),
        encode(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
        encode(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
        b"P5 104 90 65535\n" + RAMP.astype(">u2").tobytes(),
        encode(Image.fromarray(RAMP), "JPEG2000", irreversible=False),
        encode(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    ],
    ids=["PNG", "TIFF little-endian", "TIFF big-endian", "TIFF compressed", "PGM", "JPEG 2000", "TIFF of 32 bits"],
)
def test_11_16_bit_ramps_are_scaled_and_never_clipped(content):
    expected = np.floor(RAMP * (255 / 65535) + 0.5)
    result = read_image(content)
    np.testing.assert_array_equal(result, np.stack([expected] * 3, axis=2))
    assert len(np.unique(result)) == 256


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_11_16_bit_colours_are_scaled(channels):
    values = np.random.default_rng(4).integers(0, 65536, (9, 14, channels))
    if channels in (2, 4):
        values[:, :, -1] = 65535
    colours = values[:, :, :3] if channels > 2 else values[:, :, :1]
    assert np.abs(read_image(png_16_bit(values)) - colours / 257).max() <= 1


def test_11_a_pgm_of_another_maximum_is_scaled_by_it():
    values = np.array([[0, 250, 500, 1000]], ">u2")
    result = read_image(b"P5 4 1 1000\n" + values.tobytes())
    assert np.abs(result[0, :, 0] - np.array([0, 63.75, 127.5, 255])).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1_000_000, 2_000_000], [0, 128, 255]),
        ([-1000, 0, 1000], [0, 128, 255]),
        ([-(2**31), 0, 2**31 - 1], [0, 128, 255]),
        ([0, 100, 255], [0, 100, 255]),
    ],
)
def test_11_32_bit_pictures_are_scaled_by_their_range(values, expected):
    image = Image.fromarray(np.array([values], np.int32))
    assert read_image(encode(image, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(("highest", "others"), [(256, 199), (300, 170), (65535, 1)])
def test_11_one_pixel_above_255_dims_the_others_no_more_than_it_must(highest, others):
    values = np.full((20, 20), 200, np.int32)
    values[7, 7] = highest
    result = read_image(encode(Image.fromarray(values), "TIFF"))
    assert result[0, 0].tolist() == [others] * 3
    assert result[7, 7].tolist() == WHITE


GREY_12 = np.linspace(0, 4095, 400).round().astype(np.uint16).reshape(20, 20)


@pytest.mark.parametrize(
    "content",
    [
        png_16_bit(GREY_12),
        png_16_bit(np.stack([GREY_12] * 3, axis=2)),
        encode(Image.fromarray(GREY_12), "TIFF"),
        encode(Image.fromarray(GREY_12), "JPEG2000", irreversible=False),
        b"P5 20 20 65535\n" + GREY_12.astype(">u2").tobytes(),
        encode(Image.fromarray(GREY_12.astype(np.int32) // 256), "TIFF"),
    ],
    ids=["PNG", "PNG in colour", "TIFF", "JPEG 2000", "PGM", "TIFF of 32 bits"],
)
def test_11_12_values_that_use_a_sixteenth_of_their_range_are_dark(content):
    assert read_image(content).max() <= 16
    found = findings_of(content)
    assert list(found) == ["DARK"]
    assert found["DARK"].severity == "warning"
    assert "to 16 bits" in found["DARK"].message


@pytest.mark.parametrize(
    "content",
    [
        png_16_bit(GREY_12 * 16),
        png_16_bit(GREY_12 * 0),
        png_16_bit(np.stack([GREY_12 * 16] * 3, axis=2)),
        b"P5 20 20 4095\n" + GREY_12.astype(">u2").tobytes(),
        encode((GREY_12 // 256).astype(np.uint8)),
        encode(Image.fromarray(GREY_12.astype(np.float32) / 4095), "TIFF"),
    ],
    ids=["times 16", "all black", "in colour, times 16", "PGM of 12 bits", "8 bits", "floats"],
)
def test_11_12_what_uses_its_range_or_has_8_bits_is_not_dark(content):
    assert findings_of(content) == {}


def test_11_12_dark_pictures_are_listed_by_check(tmp_path):
    for label, light in (("cat", 1), ("dog", 16)):
        for number in range(3):
            (tmp_path / label).mkdir(exist_ok=True)
            values = np.random.default_rng(light + 7 * number).integers(0, 4096, (20, 20))
            saved(tmp_path / label, f"{number}.png", png_16_bit(values * light))
    said = CliRunner().invoke(app, ["check", str(tmp_path), "--json"]).stdout
    found = [one for one in json.loads(said)["findings"] if one["code"] == "DARK"]
    expected = [str(tmp_path / "cat" / f"{number}.png") for number in range(3)]
    assert sorted(name for one in found for name in one["images"]) == expected
    assert all(one["severity"] == "warning" for one in found)


# 12


@pytest.mark.parametrize("highest", [1.0001, 1.01, 1.1, 2.0])
def test_12_a_float_a_little_above_1_does_not_darken_the_others(highest):
    values = np.full((20, 20), 0.5, np.float32)
    values[7, 7] = highest
    result = read_image(encode(Image.fromarray(values), "TIFF"))
    assert result[0, 0].tolist() == [128] * 3
    assert result[7, 7].tolist() == WHITE


@pytest.mark.parametrize(("highest", "others"), [(2.01, 63), (256.0, 0), (65535.0, 0)])
def test_12_a_float_far_above_the_others_is_white_and_they_are_scaled_by_it(highest, others):
    values = np.full((20, 20), 0.5, np.float32)
    values[7, 7] = highest
    result = read_image(encode(Image.fromarray(values), "TIFF"))
    assert result[0, 0].tolist() == [others] * 3
    assert result[7, 7].tolist() == WHITE


def test_12_floats_that_use_a_sixteenth_of_0_to_255_are_dark():
    content = encode(Image.fromarray(np.linspace(0, 16, 400, dtype=np.float32).reshape(20, 20)), "TIFF")
    assert list(findings_of(content)) == ["DARK"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        ([0.0, 100.0, 200.4, 255.0], [0, 100, 200, 255]),
        ([-3.0, -1.0, 0.0, 3.0], [0, 85, 128, 255]),
        ([0.0, 1e30, 2e30, 4e30], [0, 64, 128, 255]),
    ],
)
def test_12_float_pixels_are_scaled(values, expected):
    picture = np.array([values], np.float32)
    for content in (
        encode(Image.fromarray(picture), "TIFF"),
        b"Pf\n4 1\n-1.0\n" + picture.astype("<f4").tobytes(),
    ):
        assert np.abs(read_image(content)[0, :, 0] - np.array(expected)).max() <= (0 if values[0] >= 0 else 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_12_pixels_that_are_no_number_are_nonfinite(value):
    content = encode(Image.fromarray(np.array([[0.5, value]], np.float32)), "TIFF")
    assert refusal(content).code == "NONFINITE"


# 13


RED = (250, 0, 0)


def _frames(format_):
    frames = [Image.new("RGB", (24, 20), colour) for colour in (RED, (0, 0, 250), (0, 250, 0))]
    return encode(frames[0], format_, save_all=True, append_images=frames[1:])


FRAMED = ["GIF", "WEBP", "PNG", "MPO", "TIFF"] + (["AVIF"] if features.check("avif") else [])


@pytest.mark.parametrize("format_", FRAMED)
def test_13_of_several_frames_the_first_is_taken_and_that_is_noted(format_):
    content = _frames(format_)
    assert np.abs(read_image(content) - np.array(RED)).max() <= 6
    found = findings_of(content)
    assert list(found) == ["MULTI_FRAME"]
    assert found["MULTI_FRAME"].severity == "info"
    assert findings_of(encode(Image.new("RGB", (24, 20), RED), "JPEG" if format_ == "MPO" else format_)) == {}


def test_13_a_broken_second_frame_does_not_cost_the_first():
    content = _frames("GIF")
    second = content.index(b"\x2c", content.index(b"\x2c") + 1)
    np.testing.assert_array_equal(read_image(content[: second + 3] + b";"), read_image(content))


def test_13_a_million_frames_are_not_counted():
    content = _frames("GIF")
    first = content.index(b"!\xf9")
    frame = content[first : content.index(b"!\xf9", first + 1)]
    many = content[:first] + frame * (20_000_000 // len(frame)) + b";"
    start = time.process_time()
    assert "MULTI_FRAME" in findings_of(many)
    assert time.process_time() - start < 10
    # An animated PNG that says it has two thousand million.
    control = chunk(b"acTL", struct.pack(">LL", 2**31 - 1, 0))
    assert "MULTI_FRAME" in findings_of(png(10, 10, (b"\0" + bytes(30)) * 10, before=[control]))


def test_13_a_tiff_whose_pages_lead_back_to_the_first_ends():
    content = bytearray(_frames("TIFF"))
    (first,) = struct.unpack_from("<L", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<L", content, first + 2 + 12 * entries, first)
    assert np.abs(read_image(bytes(content)) - np.array(RED)).max() == 0


# 14


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format_", "options", "tolerance"),
    [
        ("JPEG", {"quality": 98, "subsampling": 0}, 12),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_14_every_orientation_is_applied_in_every_format(format_, options, tolerance, orientation):
    pixels = smooth_pixels(16, 24)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    result = read_image(encode(pixels, format_, exif=exif, **options))
    expected = UPRIGHT[orientation](pixels)
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_14_orientation_is_read_in_either_byte_order_and_as_any_whole_number(order, kind):
    value = 6 if order == "<" else 6 << (8 * (4 - {1: 1, 3: 2, 4: 4}[kind]))
    exif = tiff([(ORIENTATION, kind, 1, value)], order=order)
    pixels = smooth_pixels(16, 24)
    jpeg = encode(pixels, "JPEG", quality=98, subsampling=0)
    result = read_image(with_segment(jpeg, 0xE1, b"Exif\0\0" + exif))
    np.testing.assert_array_equal(result, UPRIGHT[6](read_image(jpeg)))


def test_14_orientation_is_the_same_for_a_path_bytes_and_an_opened_picture(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 8
    path = saved(tmp_path, "turned.jpg", encode(smooth_pixels(16, 24), "JPEG", exif=exif))
    expected = read_image(path)
    assert expected.shape == (24, 16, 3)
    for source in (path.read_bytes(), Image.open(path), io.BytesIO(path.read_bytes()).getbuffer()):
        np.testing.assert_array_equal(read_image(source), expected)


def test_14_orientation_of_xmp_alone_is_applied():
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="3"/>'
    jpeg = encode(smooth_pixels(16, 24), "JPEG")
    np.testing.assert_array_equal(read_image(with_segment(jpeg, 0xE1, xmp)), read_image(jpeg)[::-1, ::-1])


# 15


BROKEN_EXIF = {
    "garbage": b"garbage",
    "no directory": b"II*\0\xff\xff\xff\x7f",
    "a directory that ends early": b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0" * 5,
    "an orientation of 99": tiff([(ORIENTATION, 3, 1, 99)]),
}


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_15_broken_exif_is_ignored_with_a_warning(format_, exif):
    pixels, data = smooth_pixels(), b"Exif\0\0" + BROKEN_EXIF[exif]
    plain = encode(pixels, format_)
    broken = with_segment(plain, 0xE1, data) if format_ == "JPEG" else encode(pixels, format_, exif=data)
    np.testing.assert_array_equal(read_image(broken), read_image(plain))
    found = findings_of(broken)
    assert list(found) == ["BAD_METADATA"]
    assert found["BAD_METADATA"].severity == "warning"


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_15_a_broken_colour_profile_is_ignored_with_a_warning(format_):
    pixels = smooth_pixels()
    broken = encode(pixels, format_, icc_profile=b"nonsense" * 30)
    np.testing.assert_array_equal(read_image(broken), read_image(encode(pixels, format_)))
    assert list(findings_of(broken)) == ["BAD_METADATA"]


def test_15_a_good_colour_profile_is_not_remarked_on():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format_ in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert findings_of(encode(smooth_pixels(), format_, icc_profile=profile)) == {}


@pytest.mark.parametrize(
    "content",
    [
        png(10, 10, (b"\0" + bytes(30)) * 10, before=[chunk(b"iCCP", b"name\0\x07" + bytes(9))]),
        png(10, 10, (b"\0" + bytes(30)) * 10, before=[chunk(b"iCCP", b"name\0\0" + bytes(9))]),
        png(10, 10, (b"\0" + bytes(30)) * 10, before=[chunk(b"zTXt", b"name\0\x07" + bytes(9))]),
    ],
    ids=["another compression", "not compressed", "a text of another compression"],
)
def test_15_metadata_that_keeps_a_png_from_opening_is_left_out(content):
    assert (read_image(content) == 0).all()
    assert list(findings_of(content)) == ["BAD_METADATA"]


def test_15_metadata_that_keeps_a_jpeg_from_opening_is_left_out():
    plain = encode(smooth_pixels(), "JPEG")
    # The index of further pictures in an MPO file, which is none.
    broken = with_segment(plain, 0xE2, b"MPF\0" + tiff([(0xB001, 4, 1, 2)]))
    photoshop = with_segment(plain, 0xED, b"Photoshop 3.0\x008BIM\x03\xed")
    for content in (broken, photoshop):
        np.testing.assert_array_equal(read_image(content), read_image(plain))
    # What tells how colours are stored stays: here that they are RGB, which the components' names would tell as well.
    named = encode(smooth_pixels(), "JPEG", keep_rgb=True, subsampling=0)
    assert b"Adobe" in named
    plain = bytearray(named)
    for at, step in ((named.index(b"\xff\xc0") + 10, 3), (named.index(b"\xff\xda") + 5, 2)):
        plain[at], plain[at + step], plain[at + 2 * step] = 1, 2, 3
    plain = bytes(plain)
    np.testing.assert_array_equal(read_image(plain), read_image(named))
    broken = with_segment(plain, 0xED, b"Photoshop 3.0\x008BIM\x03\xed")
    assert "BAD_METADATA" in findings_of(broken)
    np.testing.assert_array_equal(read_image(broken), read_image(plain))


def test_15_an_orientation_that_says_nothing_is_not_broken():
    jpeg = encode(smooth_pixels(), "JPEG")
    assert findings_of(with_segment(jpeg, 0xE1, b"Exif\0\0" + tiff([(ORIENTATION, 3, 1, 0)]))) == {}
    assert findings_of(jpeg[:2] + jpeg_segment(0xE1, b"Exif\0\0" + tiff([(271, 2, 4, 0x646362)])) + jpeg[2:]) == {}


# 16


def test_16_heic_without_the_extra_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refusal(saved(tmp_path, "IMG_0001.HEIC", HEIC))
    assert error.code == "UNSUPPORTED_FORMAT"
    assert "pip install 'fewshot[heif]'" in str(error)


def test_16_heic_is_read_with_the_extra(tmp_path):
    pytest.importorskip("pi_heif")
    path = saved(tmp_path, "IMG_0001.HEIC", HEIC)
    pixels = read_image(path)
    assert pixels.shape == (64, 96, 3)
    for row, column, colour in ((9, 9, RED), (9, 80, (0, 250, 0)), (55, 9, (0, 0, 250)), (55, 80, (250, 250, 250))):
        assert np.abs(pixels[row, column] - np.array(colour)).max() <= 4
    assert findings_of(path) == {}
    assert refusal(path, max_pixels=6000).code == "TOO_LARGE"
    assert refusal(HEIC[:-100]).code == "TRUNCATED"


def test_16_a_crash_of_the_heic_decoder_is_one_bad_file(monkeypatch, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("fewshot.images.heif._WORKER", worker)
    error = refusal(HEIC)
    assert error.code == "CORRUPT"
    assert "died" in str(error)


def test_16_avif_is_read():
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = smooth_pixels()
    result = read_image(encode(pixels, "AVIF", quality=95, subsampling="4:4:4"))
    assert np.abs(result.astype(int) - pixels).max() <= 12
