"""Made-up statistics of packaged networks, for tests of what is done with them."""

import numpy as np

from fewshot.backbones.packaged import PACKAGED
from fewshot.representation import whitening


def make_statistics(folder, name="efficientnet_lite0", width=1280, seed=0, **about):
    """Write statistics of random source features of a network into a folder; give what they were computed from."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(width, 60)) * rng.gamma(1.0, size=60)
    covariance = factor @ factor.T / width + 0.02 * np.eye(width)
    mean = rng.normal(size=width) ** 2 / 4
    about = {"weights_sha256": PACKAGED[name].sha256} | about
    made = whitening.Whitening.of(mean, covariance, rank=40)
    whitening.write_statistics(folder / f"{name}.safetensors", made, about)
    return mean, covariance
