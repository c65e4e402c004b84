"""What is unusual about a picture that was read all the same."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from fewshot.images.findings import Finding, Severity
from fewshot.images.formats import suffix_format

_TINY, _THIN = 8, 20


def remarks_on(
    shape: Sequence[int],
    name: str,
    *,
    format_: str | None = None,
    frames: bool = False,
    readable: bool = True,
    whole: bool = True,
    dark: bool = False,
) -> tuple[Finding, ...]:
    """List what is worth knowing about a picture: nothing, for an ordinary one.

    Args:
        shape: (H, W, ...) in pixels.
        name: of the picture.
        format_: as Pillow calls it, where it was a file.
        frames: whether there are more than the one that was taken.
        readable: whether its metadata could be read.
        whole: whether all of it was there.
        dark: whether it has more than 8 bits and hardly uses them.
    """
    height, width = shape[0], shape[1]
    found: list[tuple[str, str, Severity]] = []
    if max(height, width) < _TINY:
        found.append(("TINY", f"has only {width}x{height} pixels; little can be seen in it", "warning"))
    elif max(height, width) > _THIN * min(height, width):
        found.append(("THIN", f"is {width}x{height} pixels; networks look at squares", "warning"))
    if frames:
        found.append(("MULTI_FRAME", "has several frames, pages or views; the first is used", "info"))
    promised = suffix_format(name, format_) if format_ is not None else None
    if promised is not None:
        found.append(("OTHER_FORMAT", f"is named like {promised} and is {format_}; it was read as what it is", "info"))
    if not readable:
        said = "has EXIF data or a colour profile that cannot be read; they were ignored, and it may lie on its side"
        found.append(("BAD_METADATA", said, "warning"))
    if not whole:
        found.append(("PARTIAL", "ends early; what is missing is black", "warning"))
    if dark:
        said = (
            "has 16-bit, 32-bit or float pixels, uses less than a sixteenth of their range and is almost black; scale "
            "it to 16 bits (values of 12 bits times 16), or save it as 8 bits"
        )
        found.append(("DARK", said, "warning"))
    return tuple(Finding(code, f"{name} {said}.", (name,), severity) for code, said, severity in found)


def has_more_frames(image: Image.Image) -> bool:
    """Whether an opened picture has a second frame; frames are not counted, which may mean to read them all."""
    try:
        return bool(getattr(image, "is_animated", False))
    # GIF looks for the second frame only now, and it may be broken in any way.
    except Exception:
        return False
