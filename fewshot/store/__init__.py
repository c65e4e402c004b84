"""Features on disk, in SQLite, addressed by the digest of everything that determines them.

A row holds one vector and the digest of its bytes and its key; a row whose digest does not fit is computed again.
The store is a convenience: where it cannot be used, work goes on without it, with one warning.
"""

from __future__ import annotations

from fewshot.store.keys import feature_key
from fewshot.store.place import default_store_path
from fewshot.store.store import FeatureStore

__all__ = ["FeatureStore", "default_store_path", "feature_key"]
