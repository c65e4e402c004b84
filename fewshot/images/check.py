"""check: the data doctor. Looks at a data set as training would, trains nothing, and reports all problems at once."""

from __future__ import annotations

import os

from fewshot.errors import DatasetError
from fewshot.images.audit import OnProgress, survey
from fewshot.images.data_report import DataReport, describe
from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding
from fewshot.images.leakage import find_leakage, nothing_left
from fewshot.images.sources import DatasetSpec, load_dataset, load_splits, load_train_and_test, load_training


def check(
    train: DatasetSpec,
    test: DatasetSpec | None = None,
    *,
    keep_near_duplicates: bool = False,
    progress: OnProgress | None = None,
) -> DataReport:
    """Look at a data set as training would, and report everything that is wrong with it at once.

    Every image is read. What would stop :func:`fewshot.compare` or a fit is a finding of severity ``"error"``; what
    they would leave out, or what looks wrong, is a ``"warning"``.

    Args:
        train: a data set, or what stands for one: a folder, an archive, a CSV, ``"fruits"``, ``"leaves:FOLDER"`` or
            ``"torchvision:NAME"``. Where it comes with train and test splits, both are looked at.
        test: the images to test on.
        keep_near_duplicates: leave near-duplicates of training images in the test set, as in ``compare``.
        progress: called with the number of images looked at, and of all.

    Raises:
        UnknownNameError: no data set is called so.
        MissingExtraError: a data set that needs an optional dependency.

    Example:
        >>> report = check("pets")  # doctest: +SKIP
        >>> report.verdict, report.counts()  # doctest: +SKIP
        ('warnings', {'DUPLICATE': 1})
    """
    try:
        train_set, test_set = _collect(train) if test is None else (_collect_one(train), _collect_one(test))
    except DatasetError as error:
        return DataReport(None, None, (Finding("CANNOT_LOAD", str(error), severity="error"),), ())
    total = len(train_set) + (0 if test_set is None else len(test_set))

    def tell(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    trained = survey(train_set, progress=tell)
    if test_set is None:
        return describe(trained, source=_source(train))
    tested = survey(test_set, progress=lambda done, _: tell(len(train_set) + done, total))
    leakage = find_leakage(trained, tested, keep_near_duplicates=keep_near_duplicates)
    found, gone = list(leakage.findings), leakage.gone
    if gone and len(gone) == len(tested.digests):
        found.append(Finding("NOTHING_TO_TEST", nothing_left(leakage.leaks), severity="error"))
    # The classes of the test set are those it came with: a class that is gone with its leaks is told as untested.
    tested = tested.only([i for i in range(len(tested.digests)) if i not in gone], *found)
    return describe(trained, tested, source=_source(train), test_source=_source(train if test is None else test))


def _collect(spec: DatasetSpec) -> tuple[ImageDataset, ImageDataset | None]:
    """Collect the images to train on and those to test on, where a data set comes with both."""
    if not _is_name(spec):
        return load_train_and_test(spec)
    try:
        splits = load_splits(spec)
    except DatasetError:
        return load_dataset(spec), None
    return splits["train"], splits.get("test", splits.get("val"))


def _collect_one(spec: DatasetSpec) -> ImageDataset:
    return load_dataset(spec) if _is_name(spec) else load_training(spec)


def _is_name(spec: DatasetSpec) -> bool:
    """Whether this is one of the names that stand for data sets, rather than a path."""
    return isinstance(spec, str) and (spec == "fruits" or spec.startswith(("leaves:", "torchvision:")))


def _source(spec: DatasetSpec) -> str:
    return "images in memory" if isinstance(spec, ImageDataset) else os.fspath(spec)
