"""Where a timm model's weights are: safetensors only, from this machine where it has them, else from the hub.

timm itself falls back to pickled weights where it finds no others. Here a model without safetensors is refused: a
pickle can run code when it is read.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from fewshot.errors import WeightsNotFoundError

_FILE = "model.safetensors"
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".tar", ".npz")
# Seconds that a hub which does not answer is waited for.
_PATIENCE = 5.0

# The setting that keeps the hub's client from the network is one for all threads: no download may see another thread's.
# Reentrant, since a thread that has it may find that the hub does not answer.
_HUB = threading.RLock()

_WAYS_OUT = (
    "Ways out: connect to the network once; or copy the file into the Hugging Face cache of this machine (its folder "
    "is set by HF_HOME); or save the model to a folder and use 'local-dir:FOLDER'; or use a backbone whose weights "
    "came with the installation: 'efficientnet_lite0' or 'efficientnet_lite2'."
)
_CONVERT = (
    "Pickles can run code when they are read, so they are not. If you trust them, convert them once: "
    "timm.models.save_for_hf(timm.create_model('NAME', checkpoint_path='FILE'), 'FOLDER', safe_serialization=True) "
    "writes a folder for 'local-dir:FOLDER'."
)


def find_weights(name: str) -> Path:
    """Find the safetensors file of a pretrained timm model, and download it where it is not on this machine.

    Args:
        name: a timm model name that timm has weights for, ``hf-hub:org/model`` or ``local-dir:path``.

    Raises:
        WeightsNotFoundError: neither here nor reachable, or there are only pickles.
    """
    if name.startswith("local-dir:"):
        return _in_folder(Path(name.removeprefix("local-dir:")))
    is_hub_name = name.startswith("hf-hub:")
    repository, file = (name.removeprefix("hf-hub:"), _FILE) if is_hub_name else _known_to_timm(name)
    # timm reads the configuration of a hub's repository itself, from the cache where it now is.
    wanted = ["config.json", file] if is_hub_name else [file]
    try:
        with _HUB:
            return [_from_hub(repository, wanted_file) for wanted_file in wanted][-1]
    # huggingface_hub and the clients below it raise errors of many kinds.
    except Exception as error:
        raise not_found(name, error) from error


def not_found(name: str, error: Exception) -> WeightsNotFoundError:
    """Say which file was looked for, what went wrong, and every way out."""
    if type(error).__name__ == "EntryNotFoundError" or type(error).__name__ == "RemoteEntryNotFoundError":
        return WeightsNotFoundError(f"{name!r} has no weights in safetensors: looked for {where(name)}. {_CONVERT}")
    reason = str(error).splitlines()[0] if str(error) else "no message"
    return WeightsNotFoundError(
        f"The weights of {name!r} could not be loaded: looked for {where(name)} ({type(error).__name__}: {reason}). "
        f"{_WAYS_OUT}"
    )


def where(name: str) -> str:
    """Name the file that holds a model's weights, and the folder it belongs in."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if name.startswith("local-dir:"):
        return f"config.json and {_FILE} in {os.path.abspath(name.removeprefix('local-dir:'))}"
    if name.startswith("hf-hub:"):
        return f"{_FILE} of {name.removeprefix('hf-hub:')!r} in {HF_HUB_CACHE}"
    repository, file = _known_to_timm(name)
    return f"{file} of {repository!r} in {HF_HUB_CACHE}"


@contextlib.contextmanager
def hub_offline() -> Iterator[None]:
    """Keep the hub's client from the network, as HF_HUB_OFFLINE does: it uses what is cached, or fails at once.

    One thread at a time: others wait here, and before they download.
    """
    from huggingface_hub import constants

    with _HUB:
        before = constants.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def _in_folder(folder: Path) -> Path:
    found = [folder / _FILE] if (folder / _FILE).is_file() else []
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise not_found(f"local-dir:{folder}", error) from None
    found = found or [path for path in files if path.suffix == ".safetensors"]
    if len(found) == 1:
        return found[0]
    pickled = [path.name for path in files if path.suffix in _PICKLES]
    if pickled and not found:
        raise WeightsNotFoundError(f"{folder} has its weights only as {', '.join(pickled)}. {_CONVERT}")
    raise not_found(f"local-dir:{folder}", FileNotFoundError(f"{len(found)} files in safetensors are there"))


def _known_to_timm(name: str) -> tuple[str, str]:
    """Name the hub's repository and file of a timm model."""
    import timm

    config = timm.get_pretrained_cfg(name)
    repository, file = getattr(config, "hf_hub_id", None), getattr(config, "hf_hub_filename", None)
    if not repository or (file and not file.endswith(".safetensors")):
        raise WeightsNotFoundError(
            f"timm has the weights of {name!r} only as a pickle ({file or getattr(config, 'url', None)}). {_CONVERT}"
        )
    return str(repository), file or _FILE


def _from_hub(repository: str, file: str) -> Path:
    """Give a file of the hub: the cached one without asking the network, else a download."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    cached = try_to_load_from_cache(repository, file, revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    with contextlib.nullcontext() if _hub_answers() else hub_offline():
        return Path(hf_hub_download(repository, file, revision=revision or None, etag_timeout=_PATIENCE))


def _hub_answers() -> bool:
    """Whether the hub's host, or the proxy before it, takes connections: its client would try for most of a minute.

    A resolver without a network can block as well, so it is asked in a thread that nobody waits for.
    """
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    proxy = None if proxy_bypass(hub.hostname or "") else getproxies().get(hub.scheme) or getproxies().get("all")
    address = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else hub
    port = address.port or (443 if address.scheme == "https" else 80)
    answered = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection((address.hostname or "", port), timeout=_PATIENCE).close()
            answered.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answered.is_set()
