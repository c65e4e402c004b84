"""The image reader, against pixel values computed here with numpy."""

import io
import os
import pickle
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pictures import ORIENTATION, UPRIGHT, chunk, encode, png, random_pixels, smooth_pixels, tiff, with_segment
from PIL import Image, ImageFile, features

from fewshot.errors import FewshotError, ImageError, InvalidInputError
from fewshot.images import limits
from fewshot.images.reader import BACKGROUND, decode, examine, read_image, read_payload


def code_of(source, **options):
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    return caught.value.code


def pixels_or_code(source, **options):
    try:
        return read_image(source, **options)
    except ImageError as error:
        return error.code


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    pixels = random_pixels()
    path = tmp_path / "picture.png"
    path.write_bytes(encode(pixels))
    content = path.read_bytes()
    for source in (
        path,
        str(path),
        content,
        bytearray(content),
        memoryview(content),
        Image.open(path),
        Image.fromarray(pixels),
        pixels,
        np.asfortranarray(pixels),
        np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    ):
        result = read_image(source)
        np.testing.assert_array_equal(result, pixels)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous


def test_grey_arrays_become_three_equal_channels():
    grey = random_pixels(channels=1)
    for source in (grey, grey[:, :, 0]):
        np.testing.assert_array_equal(read_image(source), np.repeat(grey, 3, axis=2))


def test_an_arrays_pixels_are_copied():
    pixels = random_pixels()
    before = pixels.copy()
    result = read_image(pixels)
    pixels[:] = 0
    np.testing.assert_array_equal(result, before)


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
@pytest.mark.parametrize(
    ("format_", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 98, "subsampling": 0}, 12),
        ("AVIF", {"quality": 98, "subsampling": "4:4:4"}, 12),
    ],
)
def test_exif_orientation_is_applied_once_in_every_format(format_, options, tolerance, orientation):
    if format_ == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = smooth_pixels(16, 24)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    result = read_image(encode(pixels, format_, exif=exif, **options))
    expected = UPRIGHT[orientation](pixels)
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_exif_orientation_is_applied_to_pil_images_and_16_bit_ones(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = random_pixels()
    opened = Image.open(io.BytesIO(encode(pixels, exif=exif)))
    np.testing.assert_array_equal(read_image(opened), UPRIGHT[orientation](pixels))
    grey = (np.arange(8 * 13).reshape(8, 13) * 257).astype(np.uint16)
    expected = UPRIGHT[orientation](grey // 257)
    np.testing.assert_array_equal(read_image(encode(grey, exif=exif))[:, :, 0], expected)


@pytest.mark.parametrize(
    ("mode", "dtype", "format_"),
    [
        ("I;16", "<u2", None),
        ("I;16", "<u2", "PNG"),
        ("I;16", "<u2", "TIFF"),
        ("I;16B", ">u2", None),
        ("I;16B", ">u2", "TIFF"),
        ("I", "i4", None),
        ("I", "i4", "TIFF"),
    ],
)
def test_16_bit_ramps_are_scaled_and_never_clipped(mode, dtype, format_):
    ramp = np.arange(0, 65536, 7, dtype=np.int64)[:9360].reshape(90, 104)
    ramp[0, 0], ramp[-1, -1] = 0, 65535
    image = Image.fromarray(ramp.astype(dtype))
    assert image.mode == mode
    result = read_image(image if format_ is None else encode(image, format_))
    expected = np.floor(ramp / 257 + 0.5).astype(np.uint8)  # 257 is odd: there are no ties
    np.testing.assert_array_equal(result, np.repeat(expected[:, :, None], 3, axis=2))


def test_dark_16_bit_pictures_stay_dark():
    dark = np.full((4, 4), 250, np.uint16)
    assert read_image(encode(dark)).max() == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 1e5, 2e5], [0, 128, 255]),
    ],
)
def test_float_pixels_are_scaled_from_their_natural_range(values, expected):
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert image.mode == "F"
    for source in (image, encode(image, "TIFF")):
        assert read_image(source)[0, :, 0].tolist() == expected


def smooth_grey(top):
    """400 floats from 0 to ``top``."""
    return np.linspace(0, top, 400, dtype=np.float32).reshape(20, 20)


@pytest.mark.parametrize("beyond", [1.0001, 1.1, 2.0, -0.0001, -0.5])
def test_overshoot_of_a_few_floats_is_clipped_and_the_others_stay_as_they_are(beyond):
    values = smooth_grey(1)
    plain = read_image(encode(Image.fromarray(values), "TIFF")).astype(int)
    values[10, 10] = beyond
    result = read_image(encode(Image.fromarray(values), "TIFF"))[:, :, 0]
    assert result[10, 10] == (255 if beyond > 1 else 0)
    np.testing.assert_array_equal(np.delete(result, 210), np.delete(plain[:, :, 0], 210))


@pytest.mark.parametrize(("beyond", "half"), [(2.01, 63.5), (2.5, 51), (-0.51, 170.5)])
def test_floats_far_beyond_the_others_move_the_end_and_are_not_clipped(beyond, half):
    values = np.full((10, 10), 0.5, np.float32)
    values[0, 0], values[0, 1] = beyond, 1
    result = read_image(encode(Image.fromarray(values), "TIFF"))[:, :, 0]
    assert abs(float(result[5, 5]) - half) <= 1
    assert result[0, 0] == (255 if beyond > 1 else 0)


@pytest.mark.parametrize("size", [16, 24, 50])
def test_floats_resized_by_a_cubic_are_as_bright_as_before(size):
    edges = np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((8, 8))).astype(np.float32)
    resized = np.asarray(Image.fromarray(edges).resize((size, size), Image.Resampling.BICUBIC))
    assert resized.max() > 1 or size == 16
    result = read_image(encode(Image.fromarray(resized), "TIFF"))
    assert abs(result.mean() - 127.5) < 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5] * 10 + [1.5] * 10, [85] * 10 + [255] * 10),
        ([100.0] * 19 + [300.0], [85] * 19 + [255]),
        ([200.0] * 99 + [-1.0], [200] * 99 + [0]),
        ([2.0, 3.0, 256.0], [2, 3, 255]),
        ([1.0] * 10 + [-1.0] * 10, [255] * 10 + [0] * 10),
    ],
)
def test_other_floats_go_from_zero_or_less_to_the_maximum_or_255(values, expected):
    result = read_image(encode(Image.fromarray(np.array([values], np.float32)), "TIFF"))[0, :, 0]
    assert np.abs(result.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("highest", "others"), [(255, 200), (256, 199), (300, 170), (510, 100), (65535, 1), (-1, 200), (-51, 209)]
)
def test_a_32_bit_value_beyond_255_moves_the_end_as_far_as_it_goes(highest, others):
    values = np.full((10, 10), 200, np.int32)
    values[3, 3] = highest
    for source in (Image.fromarray(values), encode(Image.fromarray(values), "TIFF")):
        result = read_image(source)[:, :, 0]
        assert result[0, 0] == others
        assert result[3, 3] == (0 if highest < 0 else 255)


def test_16_bits_of_a_pgm_are_16_bits_however_small():
    values = np.array([[0, 200, 257]], ">u2")
    content = b"P5 3 1 65535\n" + values.tobytes()
    for source in (content, Image.open(io.BytesIO(content))):
        assert read_image(source)[0, :, 0].tolist() == [0, 1, 1]


def test_a_constant_negative_picture_is_readable():
    assert read_image(Image.fromarray(np.full((2, 2), -5, np.int32))).max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_pixels_are_refused(value):
    image = Image.fromarray(np.array([[0.5, value]], dtype=np.float32))
    assert code_of(image) == "NONFINITE"
    assert code_of(encode(image, "TIFF")) == "NONFINITE"


def test_transparency_is_composited_on_the_background():
    pixels = random_pixels(channels=4)
    alpha = pixels[:, :, 3:].astype(float) / 255
    expected = alpha * pixels[:, :, :3] + (1 - alpha) * np.array(BACKGROUND)
    for source in (pixels, encode(pixels), Image.fromarray(pixels)):
        assert np.abs(read_image(source) - expected).max() <= 1
    clear = np.zeros((2, 2, 4), np.uint8)
    np.testing.assert_array_equal(read_image(clear), np.broadcast_to(BACKGROUND, (2, 2, 3)))


def test_grey_with_alpha_is_composited():
    values = random_pixels(channels=2)
    alpha = values[:, :, 1].astype(float) / 255
    expected = alpha * values[:, :, 0] + (1 - alpha) * 255
    result = read_image(encode(Image.fromarray(values)))
    assert np.abs(result[:, :, 0] - expected).max() <= 1
    np.testing.assert_array_equal(result[:, :, 0], result[:, :, 2])


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_alpha_is_composited(mode):
    straight = Image.new(mode.upper(), (3, 3), (10, 255) if mode == "La" else (10, 10, 10, 255))
    np.testing.assert_array_equal(read_image(straight.convert(mode)), np.full((3, 3, 3), 10))
    clear = Image.new(mode, (3, 3))
    np.testing.assert_array_equal(read_image(clear), np.full((3, 3, 3), 255))


def test_palettes_are_looked_up_and_their_transparency_composited():
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert image.mode == "P"
    assert read_image(encode(image))[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    one_index = encode(image, transparency=1)
    assert read_image(one_index)[0].tolist() == [[10, 20, 30], list(BACKGROUND), [70, 80, 90]]
    per_entry = encode(image, transparency=bytes([255, 0, 255]))
    assert read_image(per_entry)[0].tolist() == [[10, 20, 30], list(BACKGROUND), [70, 80, 90]]


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7))])
def test_a_transparent_colour_is_composited(mode, key):
    image = Image.fromarray(np.array([[7, 8]], dtype=np.uint8)).convert(mode)
    assert read_image(encode(image, transparency=key))[0].tolist() == [list(BACKGROUND), [8, 8, 8]]


def test_one_bit_pictures_are_black_and_white():
    bits = np.array([[True, False, True]])
    for source in (Image.fromarray(bits), encode(Image.fromarray(bits))):
        assert read_image(source)[0].tolist() == [[255] * 3, [0] * 3, [255] * 3]


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255), (40, 100, 20, 60)])
def test_cmyk_follows_pillows_formula_also_from_adobes_inverted_files(ink):
    image = Image.new("CMYK", (16, 16), ink)
    black = 1 - ink[3] / 255
    expected = [255 * (1 - value / 255) * black for value in ink[:3]]
    assert np.abs(read_image(image) - np.array(expected)).max() <= 1
    jpeg = encode(image, "JPEG", quality=100)
    assert b"Adobe" in jpeg  # Pillow writes, as Adobe does, inverted values under this marker
    assert np.abs(read_image(jpeg) - np.array(expected)).max() <= 4
    assert np.abs(read_image(encode(image, "TIFF")) - np.array(expected)).max() <= 1


@pytest.mark.parametrize(
    ("lab", "rgb"),
    [((255, 128, 128), (255, 255, 255)), ((0, 128, 128), (0, 0, 0)), ((136, 208, 195), (255, 0, 0))],
)
def test_lab_is_converted_to_srgb(lab, rgb):
    # CIE L*a*b* (53.24, 80.09, 67.20) is sRGB red; L is stored as L * 255 / 100, a and b with 128 added.
    image = Image.new("LAB", (4, 4), lab)
    for source in (image, encode(image, "TIFF")):
        assert np.abs(read_image(source) - np.array(rgb)).max() <= 12


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_other_colour_spaces_are_converted(mode):
    pixels = smooth_pixels()
    result = read_image(Image.fromarray(pixels).convert(mode))
    assert np.abs(result.astype(int) - pixels).max() <= 12


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_taken(format_):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((250, 0, 0), (0, 0, 250), (0, 250, 0))]
    content = encode(frames[0], format_, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 3
    assert np.abs(read_image(content) - np.array((250, 0, 0))).max() <= 4


@pytest.mark.parametrize("name", ["picture.jpg", "picture.gif", "picture", "picture.txt"])
def test_the_content_decides_and_not_the_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(encode(random_pixels()))
    np.testing.assert_array_equal(read_image(tmp_path / name), random_pixels())


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes_are_read(size):
    pixels = random_pixels(*size)
    np.testing.assert_array_equal(read_image(encode(pixels)), pixels)


@pytest.mark.parametrize(
    "name",
    [
        "é.png",
        "e\u0301.png",
        "🍎 apple.png",
        "two\nlines.png",
        "=cmd().png",
        "<script>.png",
        "a" * 251 + ".png",
        "\udcff.png",
    ],
)
def test_unusual_file_names_are_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode(random_pixels()))
    np.testing.assert_array_equal(read_image(path), random_pixels())


def test_zero_bytes_are_empty(tmp_path):
    (tmp_path / "zero.jpg").touch()
    assert code_of(tmp_path / "zero.jpg") == "EMPTY"
    assert code_of(b"") == "EMPTY"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\n  <!DOCTYPE html><html><body>404", "HTML"),
        (b"<HTML>", "HTML"),
        (b'{"error": "not found"}', "JSON"),
        (b'[{"a": 1}]', "JSON"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"\x1f\x8brest", "gzip"),
        (b"<?xml version='1.0'?>", "XML"),
        (b"version https://git-lfs.github.com/spec/v1", "text"),
        (bytes(range(200)), "format"),
    ],
)
def test_what_is_no_image_is_called_by_its_kind(tmp_path, content, kind):
    path = tmp_path / "download.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=kind) as caught:
        read_image(path)
    assert caught.value.code == "NOT_AN_IMAGE"
    assert caught.value.source == str(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, FewshotError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"8BPS\0\x01" + b"\0" * 50, "Photoshop"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    ],
)
def test_formats_that_are_off_say_what_to_do(content, word):
    with pytest.raises(ImageError, match=word) as caught:
        read_image(content)
    assert caught.value.code == "UNSUPPORTED_FORMAT"
    assert "JPEG or PNG" in str(caught.value)


def test_pillow_could_open_the_formats_that_are_off():
    content = encode(random_pixels(), "TGA")
    assert Image.open(io.BytesIO(content)).format == "TGA"
    assert code_of(content) == "NOT_AN_IMAGE"


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ],
)
def test_a_cut_file_is_truncated_and_never_half_a_picture(format_, options):
    content = encode(random_pixels(40, 50), format_, **options)
    whole = read_image(content)
    for length in np.linspace(24, len(content) - 1, 40).astype(int):
        result = pixels_or_code(content[:length])
        if not isinstance(result, str):
            np.testing.assert_array_equal(result, whole)  # only what follows the pixels is missing
            continue
        assert result == "TRUNCATED", length
    assert code_of(content[: len(content) // 2]) == "TRUNCATED"


@pytest.mark.parametrize(
    ("format_", "options"),
    [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG2000", {}), ("ICO", {}), ("AVIF", {})],
)
def test_a_cut_file_of_any_format_is_an_image_error(format_, options):
    if format_ == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = encode(random_pixels(40, 50), format_, **options)
    whole = read_image(content)
    for length in np.linspace(1, len(content) - 1, 40).astype(int):
        result = pixels_or_code(content[:length])
        if not isinstance(result, str):
            np.testing.assert_array_equal(result, whole)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "ICO"])
def test_damaged_bytes_give_pixels_or_an_image_error(format_):
    content = encode(random_pixels(20, 20), format_)
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(40):
        damaged = np.frombuffer(content, np.uint8).copy()
        where = rng.integers(0, min(len(damaged), 120), 4)
        damaged[where] = rng.integers(0, 256, 4)
        result = pixels_or_code(damaged.tobytes(), max_pixels=1_000_000)
        if isinstance(result, str):
            refused += 1
            assert result in {"CORRUPT", "TRUNCATED", "TOO_LARGE", "NOT_AN_IMAGE"}
    assert refused


def test_pixels_that_do_not_decode_are_corrupt():
    content = bytearray(encode(random_pixels(40, 50)))
    start = content.index(b"IDAT") + 4
    content[start + 2 : start + 300] = b"\xff" * 298
    assert code_of(bytes(content)) == "CORRUPT"


def test_a_picture_that_pil_opened_can_be_truncated_too():
    for format_, code in (("JPEG", "TRUNCATED"), ("PNG", "TRUNCATED"), ("JPEG2000", "CORRUPT")):
        content = encode(random_pixels(100, 100), format_)
        opened = Image.open(io.BytesIO(content[: len(content) // 2]))
        assert code_of(opened) == code


def test_a_closed_pil_image_is_an_image_error():
    image = Image.new("RGB", (3, 3))
    image.close()
    assert code_of(image) == "CORRUPT"


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000), (2_000_000_000, 1)])
def test_bombs_are_refused_from_the_header(size):
    start = time.process_time()
    assert code_of(png(*size)) == "TOO_LARGE"
    assert time.process_time() - start < 5


def test_a_text_chunk_bomb_is_refused():
    content = encode(random_pixels())
    bomb = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(20_000_000)))
    start = content.index(b"IDAT") - 4
    assert code_of(content[:start] + bomb + content[start:]) == "TOO_LARGE"


def test_the_pixel_limit_is_the_callers():
    content = encode(random_pixels(10, 20))
    assert read_image(content, max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(ImageError, match=r"20x10.*199") as caught:
        read_image(content, max_pixels=199)
    assert caught.value.code == "TOO_LARGE"


@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 5,
        b"\xff" * 40,
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x05\0\0\0\x99",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",  # orientation 99
    ],
)
def test_broken_exif_does_not_cost_the_picture(exif):
    content = encode(smooth_pixels(), "JPEG")
    broken = with_segment(content, 0xE1, b"Exif\0\0" + exif)
    np.testing.assert_array_equal(read_image(broken), read_image(content))


def test_a_broken_colour_profile_does_not_cost_the_picture():
    content = encode(smooth_pixels(), "JPEG", icc_profile=b"nonsense" * 20)
    np.testing.assert_array_equal(read_image(content), read_image(encode(smooth_pixels(), "JPEG")))


@pytest.mark.parametrize(
    "source",
    [
        None,
        3,
        [1, 2],
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 3), bool),
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        Image.new("RGB", (0, 0)),
        Image.new("I", (0, 3)),
    ],
    ids=repr,
)
def test_objects_that_are_no_image_are_refused(source):
    assert code_of(source) == "BAD_ARRAY"


def test_a_float_array_is_told_how_to_become_uint8():
    with pytest.raises(ImageError, match=r"float64.*uint8.*255"):
        read_image(np.zeros((4, 4, 3)))


def test_a_missing_file_has_vanished(tmp_path):
    assert code_of(tmp_path / "gone.png") == "VANISHED"
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    assert code_of(tmp_path / "dangling.png") == "VANISHED"


@pytest.mark.parametrize("name", ["", "with\0null.png", "a" * 300 + ".png"])
def test_impossible_paths_are_an_image_error(tmp_path, name):
    assert code_of(f"{tmp_path}/{name}") == "NOT_A_FILE"


def test_folders_devices_and_loops_are_no_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "file.png").write_bytes(b"x")
    for path in (tmp_path / "folder.png", tmp_path / "loop.png", tmp_path / "file.png" / "inside.png", os.devnull):
        assert code_of(path) == "NOT_A_FILE"


def test_a_pipe_does_not_block(tmp_path):
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    codes = []
    reader = threading.Thread(target=lambda: codes.append(code_of(pipe)), daemon=True)
    reader.start()
    reader.join(timeout=5)
    assert codes == ["NOT_A_FILE"]


def test_a_pipe_that_takes_a_files_place_does_not_block(tmp_path, monkeypatch):
    picture, pipe = tmp_path / "picture.jpg", tmp_path / "pipe.jpg"
    picture.write_bytes(encode(random_pixels(), "JPEG"))
    os.mkfifo(pipe)
    really = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: really(picture if path == pipe else path, **options))
    codes = []
    reader = threading.Thread(target=lambda: codes.append(code_of(pipe)), daemon=True)
    reader.start()
    reader.join(timeout=5)
    assert codes == ["NOT_A_FILE"]


def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert code_of("socket.jpg") == "NOT_A_FILE"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_files_of_proc_are_read_to_their_end_and_no_further():
    assert code_of("/dev/zero") == "NOT_A_FILE"
    assert code_of("/proc/self/status") == "NOT_AN_IMAGE"
    assert code_of("/proc/self/mem") in {"NOT_A_FILE", "PERMISSION", "NOT_AN_IMAGE", "EMPTY"}


def test_a_file_that_grows_while_it_is_read_is_read_whole(tmp_path, monkeypatch):
    content = encode(random_pixels(200, 200), "BMP")
    path = tmp_path / "growing.bmp"
    path.write_bytes(content)
    small = tmp_path / "small.bmp"
    small.write_bytes(content[:1000])
    before = os.stat(small)
    monkeypatch.setattr(os, "fstat", lambda descriptor: before)
    np.testing.assert_array_equal(read_image(path), random_pixels(200, 200))
    monkeypatch.setattr(limits, "_SMALLEST_FILE_LIMIT", 2000)
    assert code_of(path, max_pixels=100) == "TOO_LARGE"


def test_no_descriptor_is_left_open(tmp_path):
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        pytest.skip("no /proc here")
    path = tmp_path / "picture.png"
    path.write_bytes(encode(random_pixels()))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    read_image(path)
    before = len(os.listdir(folder))
    for _ in range(20):
        read_image(path)
        code_of(tmp_path / "bad.png")
        code_of(tmp_path)
    assert len(os.listdir(folder)) == before


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_a_permission_problem(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(random_pixels()))
    path.chmod(0)
    assert code_of(path) == "PERMISSION"


def test_a_refused_file_is_a_permission_problem(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(random_pixels()))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert code_of(path) == "PERMISSION"


def test_running_out_of_memory_is_too_large(monkeypatch):
    def fail(*_):
        raise MemoryError

    content = encode(random_pixels())
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert code_of(content) == "TOO_LARGE"


def test_equal_content_has_equal_digests_and_different_content_different_ones(tmp_path):
    pixels, other = random_pixels(seed=1), random_pixels(seed=2)
    path = tmp_path / "one.png"
    path.write_bytes(encode(pixels))
    assert read_payload(path).digest == read_payload(path.read_bytes()).digest
    assert read_payload(pixels).digest == read_payload(Image.fromarray(pixels)).digest
    digests = {read_payload(source).digest for source in (pixels, other, pixels.reshape(14, 9, 3), encode(pixels))}
    assert len(digests) == 4


def test_a_payload_is_a_snapshot_of_the_file(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(encode(random_pixels(seed=1)))
    payload = read_payload(path)
    path.unlink()
    np.testing.assert_array_equal(decode(payload), random_pixels(seed=1))


def test_an_image_error_survives_pickling(tmp_path):
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "gone.png")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.code, copy.source) == (str(caught.value), "VANISHED", str(tmp_path / "gone.png"))


def test_threads_with_other_limits_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(limits, "MAX_PIXELS", 1000)
    small, large = encode(random_pixels(20, 20), "WEBP"), encode(random_pixels(90, 90), "WEBP")

    def read(number):
        for _ in range(20):
            assert read_image(large, max_pixels=8100 + number).shape == (90, 90, 3)
            assert code_of(large) == "TOO_LARGE"
            assert read_image(small).shape == (20, 20, 3)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(8)))
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_a_picture_that_pil_opened_is_refused_before_it_is_decoded():
    opened = Image.open(io.BytesIO(encode(random_pixels(10, 20))))
    assert code_of(opened, max_pixels=199) == "TOO_LARGE"
    assert read_image(opened, max_pixels=200).shape == (10, 20, 3)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "7", True])
def test_a_limit_must_be_a_number_of_pixels(limit):
    with pytest.raises(InvalidInputError, match="max_pixels="):
        read_image(encode(random_pixels()), max_pixels=limit)


def test_ordinary_pictures_have_no_findings():
    for format_ in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "ICO"):
        assert examine(read_payload(encode(smooth_pixels(), format_)))[1] == ()


def test_a_file_may_have_several_findings(tmp_path):
    path = tmp_path / "strip.jpg"
    frames = [Image.new("L", (300, 2), shade) for shade in (9, 99)]
    path.write_bytes(encode(frames[0], "PNG", exif=b"nonsense", save_all=True, append_images=frames[1:]))
    findings = examine(read_payload(path))[1]
    assert {finding.code for finding in findings} == {"THIN", "MULTI_FRAME", "OTHER_FORMAT", "BAD_METADATA"}
    assert all(finding.images == (str(path),) and str(path) in finding.message for finding in findings)


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1, 2**40])
def test_a_directory_beyond_every_file_is_an_image_error(offset):
    content = b"II+\0\x08\0\0\0" + offset.to_bytes(8, "little") + bytes(40)
    assert code_of(content) in {"CORRUPT", "NOT_AN_IMAGE", "TRUNCATED"}
    # The same as EXIF data costs only the metadata.
    findings = examine(read_payload(with_segment(encode(smooth_pixels(), "JPEG"), 0xE1, b"Exif\0\0" + content)))[1]
    assert [finding.code for finding in findings] == ["BAD_METADATA"]


def test_what_pillow_warns_of_does_not_cost_a_picture():
    # A resolution of two values where there is to be one; here every warning is an error.
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1), (273, 4, 1, 200)]
    content = tiff([*entries, (278, 4, 2, 150), (279, 4, 1, 64)], bytes([8]) * 400)
    with pytest.warns(UserWarning, match="too many entries"):
        Image.open(io.BytesIO(content))
    assert (read_image(content) == 8).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F", "RGB"])
def test_large_pictures_are_converted_in_strips_without_a_seam(monkeypatch, mode):
    pixels = random_pixels(70, 50, 4)
    if mode in ("I;16", "F"):
        image = Image.fromarray(pixels[:, :, 0].astype(np.uint16 if mode == "I;16" else np.float32) * 77)
    elif mode == "LAB":
        image = Image.fromarray(pixels[:, :, :3], "RGB").copy()
        image = Image.frombytes("LAB", image.size, image.tobytes())
    elif mode == "PA":
        image = Image.fromarray(pixels).convert("P").convert("PA")
    else:
        image = Image.fromarray(pixels).convert("RGB" if mode not in ("LA", "RGBA") else "RGBA").convert(mode)
    whole = read_image(image)
    monkeypatch.setattr("fewshot.images.pixels._AT_ONCE", 300)
    np.testing.assert_array_equal(read_image(image), whole)
