"""Pictures with something in them, as photographs have: random, but smooth enough to be made smaller and cropped."""

import io

import numpy as np
from PIL import Image


def scene(seed, size=(160, 120)):
    """Make an RGB picture of (width, height) out of random patches of three sizes."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        for cells in (4, 9, 18)
    ]
    mixed = sum(share * np.asarray(layer, dtype=float) for share, layer in zip((0.5, 0.3, 0.2), layers, strict=True))
    return Image.fromarray(mixed.astype(np.uint8))


def saved(image, kind="PNG", **options):
    """Give a picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path, image, **options):
    """Save a picture, and make the folder for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def pan(n_frames, seed=0, step=6):
    """Make the frames of a camera that moves over a large scene, with noise."""
    rng = np.random.default_rng(seed)
    whole = scene(seed, (900, 240))
    frames = []
    for number in range(n_frames):
        frame = np.asarray(whole.crop((number * step, 40, number * step + 240, 220)), dtype=float)
        frames.append(Image.fromarray(np.clip(frame + rng.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)))
    return frames
