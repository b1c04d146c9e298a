"""What a model said of every image, on disk: one record an image and protocol, and what they were made with.

A finished file is Parquet or JSON lines, by its suffix, with its records in order of index and, within an image, of
protocol. Its `Identity` stands in Parquet's schema metadata under the key `resnet_infer`, and in the first line of
JSON lines as `{"resnet_infer": {...}}`. Every further line, or row, has the fields of `Record`. Bytes of a name that
are no UTF-8 stand as backslash escapes. While an evaluation goes on there is a folder `FILE.parts` instead; see
`recorder.py`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_infer.predictions.files import Predictions
    from resnet_infer.predictions.files import read_predictions as read
    from resnet_infer.predictions.records import Identity, Record

__all__ = ["Identity", "Predictions", "Record", "read"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from resnet_infer.predictions import files, records

    return files.read_predictions if name == "read" else getattr(files, name, None) or getattr(records, name)
