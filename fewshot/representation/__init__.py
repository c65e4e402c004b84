"""Representations: how images become the vectors that heads work on.

A backbone gives features of one view of an image. What is made of these, of several views and of the network's own
classes, so that inner products say more of what images show, is a representation:

``plain``
    The last features of the central view, as they are.
``averaged``
    The mean over five fixed views (:mod:`fewshot.views`) of the last features, L2-normalised; for any backbone.
``tuned``
    The same, with the network's own classes and a whitening that was computed on other data sets, of which it takes
    what suits the images (:mod:`fewshot.representation.tuned`); for packaged backbones.
``auto``
    ``tuned`` where every network of the backbone has what that needs, else ``averaged``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from fewshot.errors import InvalidInputError
from fewshot.names import unknown_name

if TYPE_CHECKING:
    from fewshot.backbones.base import Backbone
    from fewshot.representation.base import Representation

REPRESENTATIONS = ("plain", "averaged", "tuned", "auto")

RepresentationLike: TypeAlias = "str | Representation"


def check_representation(name: object) -> str:
    """Refuse what is no representation's name.

    Raises:
        UnknownNameError: with the names.
    """
    if name not in REPRESENTATIONS:
        raise unknown_name("representation", name, REPRESENTATIONS)
    return str(name)


def load_representation(name: RepresentationLike, backbone: Backbone) -> Representation:
    """Make a representation of images by a backbone.

    Args:
        name: ``"plain"``, ``"averaged"``, ``"tuned"`` or ``"auto"``; or a representation of this backbone, which is
            returned as it is.
        backbone: whose networks see the images.

    Raises:
        UnknownNameError: no representation has this name.
        InvalidInputError: ``"tuned"`` for a backbone that it does not know; a representation of another backbone.
    """
    from fewshot.representation.base import Representation
    from fewshot.representation.plain import AveragedRepresentation, PlainRepresentation

    if isinstance(name, Representation):
        if name.backbone.fingerprint != backbone.fingerprint:
            raise InvalidInputError(f"This representation is one by {name.backbone.spec}, not by {backbone.spec}.")
        return name
    check_representation(name)
    if name == "plain":
        return PlainRepresentation(backbone)
    if name == "averaged":
        return AveragedRepresentation(backbone)
    from fewshot.representation.tuned import TunedRepresentation, lacking

    if name == "auto" and lacking(backbone):
        return AveragedRepresentation(backbone)
    return TunedRepresentation(backbone)
