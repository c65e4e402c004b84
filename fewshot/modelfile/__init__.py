"""Model folders: ``config.json``, ``model.safetensors`` and ``README.md``. No pickle is written, and none is read.

::

    documents   strict JSON, and its digest
    schema      what config.json may hold, in every schema; older ones are migrated
    values      what its entries may be, checked without an error for each
    labels      class labels as JSON
    weights     model.safetensors: header first, then digest and values
    heads       heads of this package as data; sklearn_heads those of scikit-learn
    restoring   from checked data to a classifier
    folder      a folder on the disk, opened once; replacing puts one in the place of another
    loading, saving
"""

from fewshot.modelfile.loading import load
from fewshot.modelfile.saving import check_target, save
from fewshot.modelfile.schema import SCHEMA_VERSION

__all__ = ["SCHEMA_VERSION", "check_target", "load", "save"]
