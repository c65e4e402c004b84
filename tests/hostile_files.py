"""Makes hostile files: small pictures in every format that is read, each damaged in many ways, always the same ones.

::

    python -m tests.hostile_files DIR [--each 200]
"""

import argparse
import io
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features


def _picture(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    # Half of it is smooth: noise alone leaves compressors nothing to do.
    values[: size[1] // 2] = np.arange(size[0], dtype=np.uint8)[None, :, None] * 6
    image = Image.fromarray(values)
    if mode in ("I;16", "F"):
        return Image.fromarray(values[:, :, 0].astype(np.uint16 if mode == "I;16" else np.float32) * 200)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def _without_times(picture: bytes) -> bytes:
    """Set the times of writing to zero: libraries note them, and files should be the same ones."""
    # Boxes of version 1 (ISO/IEC 14496-12): type, version and flags, then creation and change, 8 bytes each.
    picture = re.sub(rb"((?:mvhd|tkhd|mdhd)\x01.{3}).{16}", rb"\1" + bytes(16), picture, flags=re.DOTALL)
    # The header of a colour profile (ICC.1:2022, 7.2): 12 bytes of date and time before its signature.
    return re.sub(rb".{12}acsp", bytes(12) + b"acsp", picture, flags=re.DOTALL)


def valid_files() -> Iterator[tuple[str, bytes]]:
    """Give small whole pictures, each with its name."""
    exif = Image.Exif()
    exif[274], exif[271] = 6, "maker"
    recipes: list[tuple[str, str, dict]] = [
        *(("PNG", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")),
        ("PNG", "RGB", {"exif": exif, "icc_profile": b"profile" * 40}),
        ("PNG", "RGB", {"save_all": True, "append_images": [_picture("RGB")] * 2}),
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "RGB", {"exif": exif, "icc_profile": b"profile" * 40}),
        ("MPO", "RGB", {"save_all": True, "append_images": [_picture("RGB")]}),
        ("GIF", "P", {}),
        ("GIF", "P", {"save_all": True, "append_images": [_picture("P", (20, 10))] * 2, "transparency": 3}),
        *(("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (True, False)),
        ("WEBP", "RGB", {"save_all": True, "append_images": [_picture("RGBA")] * 2, "exif": exif}),
        *(("BMP", mode, {}) for mode in ("1", "P", "RGB", "RGBA")),
        ("DIB", "RGB", {}),
        *(("TIFF", mode, {}) for mode in ("1", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F")),
        *(("TIFF", "RGB", {"compression": how}) for how in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")),
        *(("TIFF", "1", {"compression": how}) for how in ("group3", "group4")),
        ("TIFF", "RGB", {"save_all": True, "append_images": [_picture("RGB")] * 3, "exif": exif}),
        ("TIFF", "RGB", {"big_tiff": True}),
        *(("PPM", mode, {}) for mode in ("1", "L", "RGB", "F")),
        *(("JPEG2000", mode, {}) for mode in ("L", "RGB", "RGBA")),
        ("JPEG2000", "RGB", {"no_jp2": True, "tile_size": (16, 16)}),
        ("ICO", "RGBA", {"sizes": [(16, 16), (32, 32)]}),
        ("ICO", "RGBA", {"sizes": [(16, 16)], "bitmap_format": "bmp"}),
    ]
    if features.check("avif"):
        recipes += [("AVIF", "RGB", {}), ("AVIF", "RGBA", {"save_all": True, "append_images": [_picture("RGBA")]})]
    for number, (format_, mode, options) in enumerate(recipes):
        buffer = io.BytesIO()
        _picture(mode).save(buffer, format_, **options)
        yield f"{number:02}-{format_.lower()}-{mode.lower().replace(';', '')}", _without_times(buffer.getvalue())


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 10))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_header(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 4))):
        data[rng.randrange(min(len(data), 200))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def _set_number(data: bytearray, rng: random.Random) -> None:
    """Write an extreme number where a length, an offset, a width or a count may stand."""
    code = rng.choice(("<H", ">H", "<L", ">L"))
    bits = 8 * struct.calcsize(code)
    value = rng.choice((0, 1, 1 << (bits - 1), (1 << bits) - 1, (1 << (bits - 1)) - 1, rng.getrandbits(bits)))
    reach = min(len(data), rng.choice((64, 400, len(data)))) - struct.calcsize(code)
    struct.pack_into(code, data, rng.randrange(max(1, reach)), value)


def _repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    part = data[start : start + rng.choice((4, 30, 300))]
    data[start:start] = part * rng.choice((1, 2, 50))


def _remove(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 8, 100))]


_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip_bits, _flip_header, _flip_header, _cut, _set_number, _set_number, _repeat, _remove),
)


def damaged_files(each: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Give ``each`` damaged copies of every valid file, with their names."""
    for name, content in valid_files():
        for number in range(each):
            rng = random.Random(f"{seed}/{name}/{number}")
            data = bytearray(content)
            for _ in range(rng.choice((1, 1, 2))):
                if len(data) > 8:
                    rng.choice(_DAMAGES)(data, rng)
            yield f"{name}-{number:04}", bytes(data)


def main() -> None:
    """Write the files into a folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile_files", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=200, help="damaged copies of each picture (200)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, content in damaged_files(options.each, options.seed):
        (options.folder / name).write_bytes(content)
    print(f"{len(list(options.folder.iterdir()))} files in {options.folder}")


if __name__ == "__main__":
    main()
