"""scikit-learn classifiers as data: they have no form that is safe to load, so they are trained again on loading.

Which classifier, and with which parameters, is then what a file says. So only those of a list are taken, only with
plain parameters, and only with as much work as a person would ask for. It remains that training again takes the time
that training takes.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from torch import Tensor

from fewshot.errors import ModelFileError
from fewshot.modelfile.heads import plain_parameters
from fewshot.modelfile.schema import SklearnHead
from fewshot.modelfile.weights import Expected, as_tensors
from fewshot.names import unknown_name

_MODULES = {
    "sklearn.discriminant_analysis": ("LinearDiscriminantAnalysis", "QuadraticDiscriminantAnalysis"),
    "sklearn.ensemble": (
        "AdaBoostClassifier",
        "BaggingClassifier",
        "ExtraTreesClassifier",
        "GradientBoostingClassifier",
        "HistGradientBoostingClassifier",
        "RandomForestClassifier",
    ),
    "sklearn.gaussian_process": ("GaussianProcessClassifier",),
    "sklearn.linear_model": (
        "LogisticRegression",
        "LogisticRegressionCV",
        "Perceptron",
        "RidgeClassifier",
        "RidgeClassifierCV",
        "SGDClassifier",
    ),
    "sklearn.naive_bayes": ("BernoulliNB", "GaussianNB"),
    "sklearn.neighbors": ("KNeighborsClassifier", "NearestCentroid", "RadiusNeighborsClassifier"),
    "sklearn.neural_network": ("MLPClassifier",),
    "sklearn.semi_supervised": ("LabelPropagation", "LabelSpreading"),
    "sklearn.svm": ("LinearSVC", "NuSVC", "SVC"),
    "sklearn.tree": ("DecisionTreeClassifier", "ExtraTreeClassifier"),
}
CLASSIFIERS = {name: module for module, names in _MODULES.items() for name in names}
"""Every classifier that can be loaded, and where it is."""

# The most that a parameter may ask for: of time, memory and processes. How strict a tolerance and how weak a penalty
# are needs no limit, as they cannot ask for more than `max_iter` steps.
_LIMITS = {
    "n_estimators": 2_000,
    "max_iter": 10_000,
    "max_fun": 100_000,
    "max_iter_predict": 1_000,
    "n_restarts_optimizer": 20,
    "hidden_layer_sizes": 2_048,
    "cache_size": 1_000,
    "Cs": 100,
    "alphas": 100,
    "l1_ratios": 100,
    "cv": 20,
}
_MAX_ROWS = 20_000
_MAX_ROWS_SQUARED = 3_000
_SQUARED = ("GaussianProcessClassifier", "LabelPropagation", "LabelSpreading")
"""They keep a number for every two rows."""
_MAX_STEPS = 100_000
"""Of methods that would go on without end."""

_NOT_KEPT = ("n_jobs", "verbose")
"""How a classifier was trained, not what it is."""


def describe_sklearn(head: Any, support: tuple[NDArray[Any], NDArray[Any]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give the entry ``head`` and the tensors for a fitted classifier.

    Args:
        head: the classifier.
        support: the (n, d) features and (n,) class positions that it was fitted on.

    Raises:
        ModelFileError: it is none of :data:`CLASSIFIERS`, or a parameter cannot be kept.
    """
    name = type(head).__name__
    if type(head).__module__.partition(".")[0] != "sklearn" or name not in CLASSIFIERS:
        raise ModelFileError(
            f"{name} is neither a head of this package nor one of scikit-learn's own that can be loaded again "
            f"({', '.join(sorted(CLASSIFIERS))})"
        )
    defaults = type(head)().get_params(deep=False)
    parameters = plain_parameters(head)
    kept = {k: v for k, v in parameters.items() if k not in _NOT_KEPT and v != defaults[k]}
    features, codes = support
    answers = np.searchsorted(head.classes_, head.predict(features))
    arrays = {"features": features, "codes": codes.astype(np.int64), "answers": answers.astype(np.int64)}
    return {"sklearn": name, "version": sklearn.__version__, "parameters": kept}, as_tensors(arrays)


def make_sklearn(description: SklearnHead) -> Any:
    """Make an unfitted classifier, its parameters checked.

    Raises:
        UnknownNameError: it is none of :data:`CLASSIFIERS`.
        ModelFileError: a parameter it does not have, or that asks for too much.
    """
    name = description.sklearn
    if name not in CLASSIFIERS:
        raise unknown_name("scikit-learn classifier", name, CLASSIFIERS)
    factory: Any = getattr(importlib.import_module(CLASSIFIERS[name]), name)
    known = inspect.signature(factory).parameters
    parameters = {key: value for key, value in description.parameters.items() if key not in _NOT_KEPT}
    for key, value in parameters.items():
        if key not in known:
            raise ModelFileError(f"{name} of scikit-learn {sklearn.__version__} has no parameter {key[:60]!r}")
        if _amount(key, value) > _LIMITS.get(key, np.inf):
            raise ModelFileError(f"{name}: {key}={value!r} asks for more than {_LIMITS[key]}, the most that is loaded")
    return factory(**parameters)


def _amount(key: str, value: Any) -> float:
    if isinstance(value, list):
        # Sizes of layers add up; of values to try it counts how many there are.
        sizes = [abs(size) for size in value if isinstance(size, (int, float))]
        return sum(sizes) if key == "hidden_layer_sizes" else len(value)
    return abs(value) if isinstance(value, (int, float)) else 0


def expected_sklearn(description: SklearnHead, n_features: int | None) -> dict[str, Expected]:
    """Say what a classifier's tensors must be.

    Raises:
        ModelFileError: the width of features is not named.
    """
    if n_features is None:
        raise ModelFileError("config.json: 'n_features' is missing, which its head needs")
    expected = {"features": Expected("F32", ("n_support", n_features)), "codes": Expected("I64", ("n_support",))}
    # Models of schema 1 have neither a version nor answers.
    return expected | ({"answers": Expected("I64", ("n_support",))} if description.version else {})


def fit_again(
    head: Any, description: SklearnHead, tensors: Mapping[str, Tensor], classes: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Train a classifier on what it was trained on, and see whether it answers as it did.

    Returns:
        The (n, d) features and (n,) class positions.

    Raises:
        ModelFileError: it cannot be trained on them.
    """
    features, codes = tensors["features"].numpy(), tensors["codes"].numpy()
    if not np.array_equal(np.unique(codes), np.arange(len(classes))):
        raise ModelFileError(f"its training labels are not of {len(classes)} classes")
    most = _MAX_ROWS_SQUARED if description.sklearn in _SQUARED else _MAX_ROWS
    if len(features) > most:
        raise ModelFileError(
            f"{description.sklearn} would be trained on {len(features)} rows; at most {most} are taken"
        )
    try:
        _fit(head, features, classes[codes])
        found = head.predict(features)
    # Parameters that do not go together, or features that a method cannot take: any error, and a bad file each time.
    except Exception as error:
        raise ModelFileError(f"{description.sklearn} cannot be trained again: {error}") from error
    if "answers" in tensors and not np.array_equal(np.searchsorted(classes, found), tensors["answers"].numpy()):
        warnings.warn(
            f"{description.sklearn} of scikit-learn {sklearn.__version__} answers differently on its own training "
            f"images than that of version {description.version}, with which the model was made. Install that version, "
            "or train the model again.",
            RuntimeWarning,
            stacklevel=2,
        )
    return features, codes


def _fit(head: Any, features: NDArray[Any], labels: NDArray[Any]) -> None:
    """Fit; without a limit of its own on its steps (``max_iter=-1``), a method gets one meanwhile."""
    endless = head.get_params(deep=False).get("max_iter") == -1
    if endless:
        head.set_params(max_iter=_MAX_STEPS)
    head.fit(features, labels)
    if endless:
        head.set_params(max_iter=-1)
