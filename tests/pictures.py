"""Pictures and parts of picture files for tests, built by hand where Pillow would not write them so."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 274

# What a picture stored with each EXIF orientation looks like when it is shown upright, from the standard's table: the
# value says where the stored first row and first column belong.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.swapaxes(a[::-1], 0, 1),
    7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
    8: lambda a: np.swapaxes(a, 0, 1)[::-1],
}


def encode(image, format_="PNG", **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format_, **options)
    return buffer.getvalue()


def random_pixels(height=9, width=14, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth_pixels(height=48, width=64):
    """A picture that lossy formats keep, different in every corner."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 200], axis=2).astype(np.uint8)


def chunk(kind, data):
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows=b"", *, depth=8, colour=2, before=(), after=()):
    """A PNG file of given header, with unfiltered ``rows`` and further chunks before and after them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    parts = [chunk(b"IHDR", header), *before, pixels, *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_16_bit(values):
    """A PNG file of 16-bit values (H, W) grey, or (H, W, 2), (H, W, 3) or (H, W, 4)."""
    values = np.atleast_3d(values)
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, rows, depth=16, colour={1: 0, 2: 4, 3: 2, 4: 6}[channels])


def tiff(entries, data=b"", order="<"):
    """A TIFF file of one directory, whose entries are (tag, type, count, value), followed by ``data``."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HL", 42, 8)
    body = b"".join(struct.pack(order + "HHLL", *entry) for entry in sorted(entries))
    return head + struct.pack(order + "H", len(entries)) + body + struct.pack(order + "L", 0) + data


def jpeg_segment(marker, data):
    return b"\xff" + bytes((marker,)) + struct.pack(">H", len(data) + 2) + data


def with_segment(jpeg, marker, data):
    """A JPEG file with one more segment at its beginning."""
    return jpeg[:2] + jpeg_segment(marker, data) + jpeg[2:]
