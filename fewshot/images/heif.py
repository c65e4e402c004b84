"""HEIC photos, which Pillow does not read: with the extra ``heif``, and else a message that names it.

Its decoder has crashed on broken files, and a crash would take everything with it that a run has done. So it works in a
process of its own, which costs some tenths of a second for each photo.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess  # nosec B404
import sys
from pathlib import Path

from PIL import Image

from fewshot.errors import ImageError
from fewshot.images.bombs import check_size
from fewshot.images.formats import ENDS_EARLY, ends_early

# The second is the first with an encoder; who has it needs nothing more.
_READERS = ("pi_heif", "pillow_heif")
_WORKER = Path(__file__).with_name("heif_worker.py")
_SECONDS = 60


def read_heif(content: bytes, name: str, max_pixels: int) -> tuple[Image.Image, bool]:
    """Decode a HEIC photo, which comes upright.

    Returns:
        The photo, and whether there are more in the file.

    Raises:
        ImageError: ``UNSUPPORTED_FORMAT`` where the extra is not installed; ``TOO_LARGE``; ``TRUNCATED``; ``CORRUPT``.
    """
    reader = next((reader for reader in _READERS if importlib.util.find_spec(reader)), None)
    if reader is None:
        raise ImageError(
            "UNSUPPORTED_FORMAT",
            name,
            "a HEIC photo; run `pip install 'fewshot[heif]'` to read it, or save it as JPEG or PNG",
        )
    if ends_early(content):
        raise ImageError("TRUNCATED", name, ENDS_EARLY)
    # -P: what lies beside the worker must not be taken for other people's modules.
    command = [sys.executable, "-P", str(_WORKER), reader, str(max_pixels)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=_SECONDS)  # noqa: S603 # nosec B603
    except subprocess.TimeoutExpired:
        raise ImageError("CORRUPT", name, f"a HEIC photo whose decoder needs more than {_SECONDS} s") from None
    head, _, data = done.stdout.partition(b"\n")
    if done.returncode != 0 or not head:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise ImageError("CORRUPT", name, f"a HEIC photo that does not decode ({''.join(said) or 'its decoder died'})")
    answer = json.loads(head)
    size = (int(answer["width"]), int(answer["height"]))
    check_size(size, max_pixels, name)
    return Image.frombytes(answer["mode"], size, data), bool(answer["more"])
