"""The process that decodes a HEIC photo: from standard input to a line of JSON and the pixels on standard output."""

import contextlib
import importlib
import io
import json
import sys

_MEMORY = 4 << 30
_SECONDS = 60


def main(reader: str, max_pixels: int) -> None:
    """Decode one photo; write its size alone where it has more than ``max_pixels`` pixels."""
    # Windows has no such limits.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    image = importlib.import_module(reader).HeifImageFile(io.BytesIO(sys.stdin.buffer.read()))
    width, height = image.size
    data, mode, more = b"", "RGB", image.is_animated
    if width * height <= max_pixels:
        image.load()
        rgb = image if image.mode in ("RGB", "RGBA", "L", "LA") else image.convert("RGB")
        (width, height), mode, data = rgb.size, rgb.mode, rgb.tobytes()
    answer = {"width": width, "height": height, "mode": mode, "more": more}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + data)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
