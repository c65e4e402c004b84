"""Keys of stored vectors."""

from __future__ import annotations

import hashlib


def feature_key(*parts: object) -> bytes:
    """Digest everything that determines a vector into the key it is stored under.

    Args:
        *parts: by their text; where one ends and the next begins is part of the key.
    """
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
