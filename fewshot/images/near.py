"""Near-duplicates: one photograph saved twice, as JPEG and PNG, smaller, cropped, brighter, framed or mirrored.

Three steps, each on a grey thumbnail of 64 x 64 pixels, which is all that is kept of an image:

1. A perceptual hash (ImageHash's ``phash``) of the picture and of a few ways it may have been changed proposes pairs.
2. The correlation of coarse thumbnails drops most of those that collide: drawings, and things on white ground.
3. The pair is laid on each other by the affine motion that fits best (``cv2.findTransformECC``), and the pixels are
   compared. Only what is the same picture survives this: two photographs of the same thing do not fit.

Colour is compared by one number pair for each image (:func:`tint`), which callers put into ``allowed``.

Thresholds were chosen on photographs and drawings with ``benchmarks/near_duplicates.py``, which measures how many
changed copies are found, and how many pairs of different pictures are taken for copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import joblib
import numpy as np
from numpy.typing import NDArray

Prints: TypeAlias = "NDArray[np.uint8]"
"""Thumbnails (n, SIDE, SIDE), grey."""
Tint: TypeAlias = "NDArray[np.float32]"
"""Blue and red beyond grey, (2,) or (n, 2), see :func:`tint`."""
Allowed: TypeAlias = "Callable[[int, NDArray[np.intp], bool], NDArray[np.bool_]]"
"""Of an image, those it may be paired with, and whether mirrored: tells for each of those."""
_Warp: TypeAlias = "NDArray[np.float32]"

SIDE = 64
MIN_SIMILARITY = 0.985
"""Correlation of two pictures laid on each other, from which on they count as one."""

_RADIUS = 14  # bits of 64 in which hashes of a pair may differ
_MIN_COARSE = 0.8  # correlation of 16 x 16 pixels, before they are laid on each other
_MAX_CANDIDATES = 6  # per image: pictures that all look alike must not make the search quadratic in expensive steps
_MAX_MISSES = 1024  # comparisons of a block that find nothing, after which the less likely candidates are passed over
_ALL_MISSES = 20_000  # the same for all blocks together
_MIN_ROUGH = 0.93  # similarity after laying on each other roughly, to go on
_IDENTITY = np.eye(2, 3, dtype=np.float32)
_BLOCK = 1024
_BORDER = 8  # grey levels by which the bars of a framed picture may vary
_FLAT = 4.0  # standard deviation in grey levels below which a picture shows nothing to go by
_TINT_NOISE = 10.0  # of 255 by which tints may differ whatever they are
_TINT_SHARE = 0.5  # of the stronger tint by which they may differ besides: brightness and contrast scale it
_GREY = 3.0  # strength of a tint below which a picture is grey
_SIMPLE = 16  # tiles of 64 with something in them, below which a drawing fits many others
# Share that is cut off, and how much of it on the left and at the top.
_CROPS = ((0.05, 0.5, 0.5), (0.1, 0.5, 0.5), (0.1, 0.2, 0.2), (0.1, 0.2, 0.8), (0.1, 0.8, 0.2), (0.1, 0.8, 0.8))


@dataclass(frozen=True)
class NearPair:
    """Two images that show the same picture.

    Attributes:
        first: position of one of them.
        second: position of the other.
        similarity: correlation of their pixels, 0..1.
        mirrored: whether one is the other's mirror image.
    """

    first: int
    second: int
    similarity: float
    mirrored: bool


def fingerprint(pixels: NDArray[np.uint8]) -> Prints:
    """Shrink (H, W, 3) RGB to the grey (SIDE, SIDE) thumbnail that pictures are compared by."""
    from PIL import Image

    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=3.0)
    return np.asarray(image.convert("L"))


def tint(pixels: NDArray[np.uint8]) -> Tint:
    """Give the colour of (H, W, 3) RGB: (2,) blue and red beyond grey, 0..255 levels, strong colours counting most."""
    from PIL import Image

    image = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX, reducing_gap=3.0)
    small = np.asarray(image, dtype=np.float32).reshape(-1, 3)
    chroma = small[:, [2, 0]] - small @ np.array([0.299, 0.587, 0.114], dtype=np.float32)[:, None]
    # Plain ground would thin out the colour of what is on it.
    weight = (chroma**2).sum(axis=1, keepdims=True)
    return np.asarray((chroma * weight).sum(axis=0) / max(float(weight.sum()), 1e-9), dtype=np.float32)


def alike_in_colour(one: Tint, others: Tint) -> NDArray[np.bool_]:
    """Tell which of (n, 2) tints may be one picture's with ``one``: close, or one of the two is grey."""
    strength, mine = np.linalg.norm(others, axis=1), float(np.linalg.norm(one))
    limit = _TINT_NOISE + _TINT_SHARE * np.maximum(strength, mine)
    alike: NDArray[np.bool_] = (np.linalg.norm(others - one, axis=1) <= limit) | (strength < _GREY) | (mine < _GREY)
    return alike


def near_pairs(
    prints: Prints,
    others: Prints | None = None,
    *,
    allowed: Allowed | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_cut: Callable[[int], object] | None = None,
) -> list[NearPair]:
    """Find pairs of images that show the same picture.

    Args:
        prints: (n, SIDE, SIDE) thumbnails.
        others: (m, SIDE, SIDE), to find pairs of an image in ``prints`` and one in these, one for each of ``prints`` at
            most. If omitted, pairs within ``prints``: enough to connect all copies of a picture, not each with each.
        allowed: says which pairs may be given at all; the others are dropped before they can stand for a group, or
            take the place of an allowed one.
        progress: called with the number of images done, and of all.
        on_cut: called once if there were so many look-alikes that not all were compared, with the number of images
            for which nothing was found and something was passed over.

    Returns:
        The pairs, in order of their positions; ``second`` is a position in ``others`` where these are given.
    """
    within = others is None
    against = prints if others is None else others
    if not len(prints) or not len(against):
        return []
    groups = _Groups(len(prints) + (0 if within else len(against)))
    found: list[NearPair] = []
    cut: set[int] = set()
    with ThreadPoolExecutor(int(joblib.cpu_count())) as pool:
        for done, candidates in _candidates(prints, against, within, pool, allowed, cut):
            for pair in _confirmed(candidates, prints, against, within, groups, pool, cut):
                found.append(pair)
            if progress is not None:
                progress(done, len(prints))
    cut -= {end for pair in found for end in ((pair.first, pair.second) if within else (pair.first,))}
    if cut and on_cut is not None:
        on_cut(len(cut))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


def connected(n: int, links: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """Number the groups that links make of ``n`` items: (n,) group of each, by its first member's position."""
    groups = _Groups(n)
    for a, b in links:
        groups.join(a, b)
    return np.array([groups.find(i) for i in range(n)], dtype=np.intp)


class _Groups:
    """Which items are linked, directly or through others; a group is called by its smallest member."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        self._parent[b] = a


@dataclass(frozen=True)
class _Candidate:
    """A proposed pair, and which parts of the two look alike."""

    first: int
    second: int
    mirrored: bool
    first_box: NDArray[np.float32]
    second_box: NDArray[np.float32]


@dataclass(frozen=True)
class _Looks:
    """Pictures, changed in one way or left as they are: what proposes pairs.

    ``of`` are positions of the images, ``hashes`` (n,) uint64, ``coarse`` (n, 256) of length one, ``boxes`` (n, 4) the
    part of the picture that is compared: left, top, width, height in pixels of the thumbnail.
    """

    of: NDArray[np.intp]
    hashes: NDArray[np.uint64]
    coarse: NDArray[np.float32]
    boxes: NDArray[np.float32]


def _candidates(
    prints: Prints, against: Prints, within: bool, pool: ThreadPoolExecutor, allowed: Allowed | None, cut: set[int]
) -> Iterator[tuple[int, list[_Candidate]]]:
    """Propose pairs, block by block, so that memory does not grow with the square of the number."""
    index = _all_looks(against, pool, cropped=not within)
    for start in range(0, len(prints), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(prints)))
        part = prints[block]
        query = _all_looks(part, pool, cropped=True)
        mirror = np.ascontiguousarray(part[:, :, ::-1])
        query["mirrored"] = [_look(mirror, np.arange(len(part)), _whole_boxes(len(part)), pool)]
        proposed: dict[tuple[int, int, bool], tuple[float, _Candidate]] = {}
        for one_way, other_way in _COMPARED:
            for mine in query.get(one_way, ()):
                for theirs in index.get(other_way, ()):
                    for closeness, one in _close(mine, theirs, one_way == "mirrored", start, within, allowed, cut):
                        ends = sorted((one.first, one.second)) if within else (one.first, one.second)
                        key = (*ends, one.mirrored)
                        if key not in proposed or closeness > proposed[key][0]:
                            proposed[key] = closeness, one
        yield int(block[-1]) + 1, _likeliest(proposed.values(), cut)


def _likeliest(proposed: Iterable[tuple[float, _Candidate]], cut: set[int]) -> list[_Candidate]:
    """Keep the closest few of each image, whichever parts look alike, in order of closeness."""
    taken: dict[int, int] = defaultdict(int)
    kept = []
    for _, one in sorted(proposed, key=lambda both: -both[0]):
        taken[one.first] += 1
        if taken[one.first] <= _MAX_CANDIDATES:
            kept.append(one)
        else:
            cut.add(one.first)
    return kept


_COMPARED = (
    ("whole", "whole"),
    ("mirrored", "whole"),
    ("trimmed", "whole"),
    ("whole", "trimmed"),
    ("trimmed", "trimmed"),
    ("cropped", "whole"),
    ("whole", "cropped"),
)
"""Which parts of a picture are compared with which parts of the other."""


def _all_looks(prints: Prints, pool: ThreadPoolExecutor, *, cropped: bool) -> dict[str, list[_Looks]]:
    everything = np.arange(len(prints))
    looks = {"whole": [_look(prints, everything, _whole_boxes(len(prints)), pool)]}
    looks["trimmed"] = [_look(prints, *_trimmed_boxes(prints), pool, framed=True)]
    if cropped:
        looks["cropped"] = [_look(prints, everything, _cropped_boxes(len(prints), *crop), pool) for crop in _CROPS]
    return looks


def _close(
    query: _Looks,
    index: _Looks,
    mirrored: bool,
    start: int,
    within: bool,
    allowed: Allowed | None,
    cut: set[int],
) -> Iterator[tuple[float, _Candidate]]:
    """Find what is close by hash and by coarse pixels; for each query the closest few."""
    if not len(query.of) or not len(index.of):
        return
    for position, row in enumerate(query.of):
        far = np.bitwise_count(index.hashes ^ query.hashes[position])
        near = np.flatnonzero(far <= _RADIUS)
        if not len(near):
            continue
        closeness = index.coarse[near] @ query.coarse[position]
        kept = closeness >= _MIN_COARSE
        if within:
            kept &= index.of[near] != row + start
        near, closeness = near[kept], closeness[kept]
        if allowed is not None and len(near):
            kept = allowed(int(row) + start, index.of[near], mirrored)
            near, closeness = near[kept], closeness[kept]
        if len(near) > _MAX_CANDIDATES:
            cut.add(int(row) + start)
            best = np.argpartition(-closeness, _MAX_CANDIDATES)[:_MAX_CANDIDATES]
            near, closeness = near[best], closeness[best]
        for one, score in zip(near, closeness, strict=True):
            boxes = query.boxes[position], index.boxes[one]
            yield float(score), _Candidate(int(row) + start, int(index.of[one]), mirrored, *boxes)


def _confirmed(
    candidates: list[_Candidate],
    prints: Prints,
    against: Prints,
    within: bool,
    groups: _Groups,
    pool: ThreadPoolExecutor,
    cut: set[int],
) -> Iterator[NearPair]:
    """Compare candidates closely, best first; those that are linked already are passed over."""
    shift, step = (0 if within else len(prints)), 64
    patience, misses = min(_MAX_MISSES, max(step, _ALL_MISSES // -(-len(prints) // _BLOCK))), 0
    matched: set[int] = set()

    def compare(one: _Candidate) -> float:
        first = prints[one.first][:, ::-1] if one.mirrored else prints[one.first]
        return _similarity(_cut(first, one.first_box), _cut(against[one.second], one.second_box))

    for begin in range(0, len(candidates), step):
        open_ones = [
            one
            for one in candidates[begin : begin + step]
            if (groups.find(one.first) != groups.find(one.second + shift) if within else one.first not in matched)
        ]
        if misses >= patience:
            cut.update(one.first for one in open_ones)
            continue
        for one, similarity in zip(open_ones, pool.map(compare, open_ones), strict=True):
            misses += similarity < MIN_SIMILARITY
            if similarity >= MIN_SIMILARITY and one.first not in matched:
                if within:
                    if groups.find(one.first) == groups.find(one.second):
                        continue
                    groups.join(one.first, one.second)
                    low, high = sorted((one.first, one.second))
                    yield NearPair(low, high, round(similarity, 3), one.mirrored)
                else:
                    matched.add(one.first)
                    yield NearPair(one.first, one.second, round(similarity, 3), one.mirrored)


def _similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Correlate two thumbnails, laid on each other as well as an affine motion can."""
    import cv2

    if min(a.std(), b.std()) < _FLAT:
        return 0.0
    best, warp = _correlation(a, b, _IDENTITY), _IDENTITY
    # A line fits every other line: of what shows little, only the same in the same place is the same.
    if best >= 0.999 or min(_details(a).sum(), _details(b).sum()) < _SIMPLE:
        return best
    # Half the size is a quarter of the work, and enough to see that most pairs do not fit.
    for factor, needed in ((0.5, _MIN_ROUGH), (1.0, 0.0)):
        try:
            warp = _laid_on(a, b, warp, factor)
        # Raised where the two do not fit at all.
        except cv2.error:
            return best
        best = max(best, _correlation(a, b, warp))
        if best < needed:
            break
    return best


def _laid_on(a: NDArray[np.float32], b: NDArray[np.float32], start: _Warp, factor: float) -> _Warp:
    """Find the affine motion that lays ``b`` on ``a`` best, looking at both at ``factor`` of their size."""
    import cv2

    if factor < 1:
        a, b = _halved(a), _halved(b)
    moved = np.array([1, 1, factor], dtype=np.float32)
    everywhere = np.ones(b.shape, dtype=np.uint8)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-3 if factor < 1 else 1e-4)
    _, warp = cv2.findTransformECC(a, b, start * moved, cv2.MOTION_AFFINE, criteria, everywhere, 3 if factor < 1 else 5)
    return np.asarray(warp / moved, dtype=np.float32)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32], warp: _Warp) -> float:
    """Correlate what two pictures share once the second is warped, but for the worst sixth of it: a mark, a caption."""
    import cv2

    scales = np.linalg.svd(warp[:, :2], compute_uv=False)
    if scales.max() > 1.5 or scales.min() < 0.66:
        return 0.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = np.asarray(cv2.warpAffine(b, warp, (SIDE, SIDE), flags=flags), dtype=np.float32)
    inside = np.asarray(cv2.warpAffine(np.ones_like(b), warp, (SIDE, SIDE), flags=flags), dtype=np.float32)
    shared = _tiles(inside).min(axis=1) > 0.99
    if shared.mean() < 0.5:
        return 0.0
    dropped = int(min(_details(a)[shared].sum(), _details(warped)[shared].sum()) / 6)
    left, right = _tiles(_halved(a))[shared], _tiles(_halved(warped))[shared]
    if min(left.std(), right.std()) < _FLAT / 2:
        return 0.0
    covariance = np.cov(left.ravel(), right.ravel())
    gain = covariance[0, 1] / covariance[1, 1]
    errors = ((left - left.mean() - gain * (right - right.mean())) ** 2).mean(axis=1)
    kept = np.argsort(errors)[: len(errors) - dropped]
    left, right = left[kept].ravel(), right[kept].ravel()
    return float(np.corrcoef(left, right)[0, 1]) if min(left.std(), right.std()) >= _FLAT / 2 else 0.0


def _details(picture: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell in which of the 64 tiles there is something to see."""
    result: NDArray[np.bool_] = _tiles(picture).std(axis=1) > 0.2 * picture.std()
    return result


def _halved(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average 2 x 2 pixels: a picture that was made smaller has lost what is finer."""
    result: NDArray[np.float32] = picture.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
    return result


def _tiles(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut (s, s) into (64, s * s / 64)."""
    n = len(picture) // 8
    return picture.reshape(8, n, 8, n).swapaxes(1, 2).reshape(64, n * n)


def _look(
    prints: Prints, of: NDArray[np.intp], boxes: NDArray[np.float32], pool: ThreadPoolExecutor, *, framed: bool = False
) -> _Looks:
    """Hash and shrink a part of each picture; it is all of the picture where the rest is a frame."""
    pairs = list(pool.map(_hash_and_shrink, (prints[i] for i in of), boxes))
    hashes = np.array([one for one, _ in pairs], dtype=np.uint64)
    coarse = np.array([other for _, other in pairs], dtype=np.float32).reshape(len(pairs), 256)
    coarse -= coarse.mean(axis=1, keepdims=True) if len(coarse) else 0
    # What shows nothing correlates with nothing.
    length = np.linalg.norm(coarse, axis=1, keepdims=True)
    coarse = np.where(length > _FLAT * 16, coarse / np.maximum(length, 1e-9), 0).astype(np.float32)
    return _Looks(of, hashes, coarse, boxes if framed else _whole_boxes(len(of)))


def _hash_and_shrink(picture: NDArray[np.uint8], box: NDArray[np.float32]) -> tuple[int, NDArray[np.uint8]]:
    import imagehash
    from PIL import Image

    left, top, width, height = (float(v) for v in box)
    image = Image.fromarray(picture)
    part = (left, top, left + width, top + height)
    small = image.resize((32, 32), Image.Resampling.BILINEAR, box=part)
    bits = imagehash.phash(small).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big"), np.asarray(small.resize((16, 16), Image.Resampling.BOX))


def _cut(picture: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Enlarge a part of a thumbnail to its full size."""
    from PIL import Image

    left, top, width, height = (float(v) for v in box)
    image = Image.fromarray(np.ascontiguousarray(picture))
    part = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
    return np.asarray(part, dtype=np.float32)


def _whole_boxes(n: int) -> NDArray[np.float32]:
    return np.tile(np.array([0, 0, SIDE, SIDE], dtype=np.float32), (n, 1))


def _cropped_boxes(n: int, share: float, left: float, top: float) -> NDArray[np.float32]:
    cut, side = SIDE * share, SIDE * (1 - share)
    return np.tile(np.array([cut * left, cut * top, side, side], dtype=np.float32), (n, 1))


def _trimmed_boxes(prints: Prints) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Find pictures with bars of one colour around them, and what is inside."""
    of, boxes = [], []
    for position, picture in enumerate(prints):
        differs = np.abs(picture.astype(np.int16) - int(picture[0, 0])) > _BORDER
        rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
        if not len(rows):
            continue
        # The outermost line of what is inside is half bar.
        top, bottom = rows[0] + (rows[0] > 0), rows[-1] + (rows[-1] == SIDE - 1)
        left, right = columns[0] + (columns[0] > 0), columns[-1] + (columns[-1] == SIDE - 1)
        inside = differs[top:bottom, left:right]
        if not 0.1 * SIDE**2 < inside.size < 0.97 * SIDE**2:
            continue
        # A picture fills its frame to the edge; a thing on plain ground does not.
        if min(edge.mean() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])) > 0.5:
            of.append(position)
            boxes.append((left, top, right - left, bottom - top))
    return np.array(of, dtype=np.intp), np.array(boxes, dtype=np.float32).reshape(len(of), 4)
