"""Which formats are read, and what a file is that is none of them, told from its bytes alone."""

from __future__ import annotations

from pathlib import PurePath

from fewshot.errors import ImageError

# An allow-list: EPS would start Ghostscript, FITS and PSD have a history of decompression bombs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG"
_JP2 = b"\0\0\0\x0cjP  "
DIB_HEADERS = tuple(bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124))
"""How bitmaps begin, after the file's header if they have one: with the size of the header that follows."""

_STARTS = (
    *(_JPEG, _PNG, b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0"),
    *(_JP2, b"\xff\x4f\xff\x51", b"\0\0\1\0"),
    *DIB_HEADERS,
    *(b"P%c" % kind for kind in b"0123456fy"),
)
_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

# What people actually save under an image's name.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<?xml", "XML"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
# Pictures, but of formats that are off.
_OFF_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "a Photoshop file"),
    (b"SIMPLE  =", "a FITS file"),
    (b"<svg", "an SVG drawing"),
)
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
    "AVIF": ("avif", "avifs"),
    "JPEG2000": ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"),
    "ICO": ("ico",),
    "HEIF": ("heic", "heif", "hif"),
}
_FORMAT_OF = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix, kind in _FORMAT_OF.items() if kind in (*FORMATS, "HEIF"))
"""What can be read, HEIF with an extra: files with other suffixes are not taken for images when a folder is walked."""
_SAME = {"MPO": "JPEG", "DIB": "BMP"}

ENDS_EARLY = "the file ends before the picture does; get it again"


def is_image(head: bytes) -> bool:
    """Whether a file begins like one of an allowed format, or HEIF."""
    brands = (*_AVIF_BRANDS, *_HEIF_BRANDS)
    return head.startswith(_STARTS) or is_webp(head) or (head[4:8] == b"ftyp" and head[8:12] in brands)


def is_webp(head: bytes) -> bool:
    """Whether a file begins like WebP."""
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


def is_heif(head: bytes) -> bool:
    """Whether a file is in HEIF, but not AVIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[12:64]


def suffix_format(name: str, found: str) -> str | None:
    """Give the format that a file's suffix promises, where that is another than the one found."""
    promised = _FORMAT_OF.get(PurePath(name).suffix.lower().removeprefix("."))
    return promised if promised not in (None, _SAME.get(found, found)) else None


def ends_early(content: bytes) -> bool:
    """Whether a JPEG, JPEG 2000, PNG, GIF, WebP, AVIF or HEIC file lacks its end."""
    if content.startswith((_JPEG, _JP2)):
        return b"\xff\xd9" not in content
    if content.startswith(_PNG):
        return b"IEND" not in content
    if content.startswith(b"GIF8"):
        return not content.endswith(b";")
    if is_webp(content):
        return int.from_bytes(content[4:8], "little") + 8 > len(content)
    return content[4:8] == b"ftyp" and _box_is_cut(content)


def _box_is_cut(content: bytes) -> bool:
    """Whether the box that holds the pixels, or tells where they are, is longer than the rest of the file."""
    at = 0
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if length == 1:
            length = int.from_bytes(content[at + 8 : at + 16], "big")
        # 0 means to the end of the file.
        if length < 8 or at + length > len(content):
            return length >= 8 and kind in (b"mdat", b"meta", b"ftyp")
        at += length
    return False


def not_an_image(content: bytes, name: str) -> ImageError:
    """Say what a file is in which no picture was found; ``content`` may be its beginning alone."""
    head = content[:512].lstrip().lower()
    for signature, kind in _SIGNATURES:
        if head.startswith(signature.lower()):
            return ImageError("NOT_AN_IMAGE", name, f"this is {kind}, not an image, whatever its name says")
    for signature, kind in _OFF_SIGNATURES:
        if head.startswith(signature.lower()):
            return ImageError("UNSUPPORTED_FORMAT", name, f"this is {kind}; save it as JPEG or PNG")
    if ends_early(content):
        return ImageError("TRUNCATED", name, ENDS_EARLY)
    if content.startswith((_JPEG, _PNG, b"GIF8", _JP2)) or is_webp(content) or content[4:12] == b"ftypavif":
        return ImageError("CORRUPT", name, "the header does not decode; get the file again")
    is_text = not any(byte < 9 for byte in content[:512])
    return ImageError("NOT_AN_IMAGE", name, "this is a text file, not an image" if is_text else "no known image format")
