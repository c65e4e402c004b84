"""OpenVINO as the CPU's engine: the same network in float32, compiled for the processor at hand."""

from __future__ import annotations

import functools
import sys
import warnings
from collections import deque
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def is_installed() -> bool:
    """Whether the package is here; found without importing it."""
    return find_spec("openvino") is not None


class CompiledNetwork:
    """A network compiled by OpenVINO, called as ``compiled(pixels)`` from any number of threads.

    Pictures are computed one by one. On two cores that is as fast as batches of 4 for EfficientNet-Lite and ResNet
    (slower by a quarter for a ViT), and a picture's features cannot depend on what shares its batch.

    Args:
        network: maps (1, S, S, 3) uint8 to (1, n_features) float32, in eval mode.
        size: S, in pixels.

    Raises:
        Exception: of any kind, where OpenVINO cannot convert or compile the network.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        import joblib

        streams = int(joblib.cpu_count())
        self._compiled = _core().compile_model(
            _convert(network, size),
            "CPU",
            {
                # bfloat16, the default on newer processors, would change the third digit.
                "INFERENCE_PRECISION_HINT": "f32",
                # One thread for each request and one stream for each worker: cores are shared between pictures, as
                # with PyTorch, and sums are added in the same order on every number of cores.
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": streams,
                # Pinned threads of two processes, such as Ray's, would queue for the same cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        # A request holds the memory of one pass. Workers come and go with every block of pictures; requests are kept.
        self._idle: deque[Any] = deque()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run (b, S, S, 3) uint8 through the network; return (b, n_features) float32."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        rows: list[NDArray[np.float32]] = []
        for position, picture in enumerate(np.ascontiguousarray(pixels)):
            # Short batches are filled up with their last picture.
            if position and np.array_equal(picture, pixels[position - 1]):
                rows.append(rows[-1])
            else:
                rows.append(request.infer({0: picture[None]}, share_inputs=True)[0][0].copy())
        self._idle.append(request)
        return np.stack(rows)


def _convert(network: nn.Module, size: int) -> Any:
    """Convert by the PyTorch front end itself: ``openvino.convert_model`` traces twice and reports to its makers."""
    _import()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros((1, size, size, 3), dtype=torch.uint8)
    # The tracer announces its deprecation. OpenVINO converts exported programs as well, which takes three times as
    # long, and needs no tracer: the way to go once it is removed.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(network, example_input=example, trace_kwargs={"check_trace": False})
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    model.reshape([1, size, size, 3])
    return model


@functools.cache
def _core() -> Any:
    return _import().Core()


def _import() -> Any:
    """Import OpenVINO without its telemetry, which sends an event at every import unless it cannot be imported."""
    telemetry = "openvino_telemetry"
    if "openvino" in sys.modules or telemetry in sys.modules:
        import openvino

        return openvino
    # Python's own way to say that a module is not there.
    sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules[telemetry]
    return openvino
