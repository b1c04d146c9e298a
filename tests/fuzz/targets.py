"""What is fuzzed: every reader of what strangers wrote, and the only errors that it may raise."""

import contextlib
import io
import json
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from resnet_infer.backends.onnx_file import load_graph
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Source
from resnet_infer.errors import ArtifactError, CheckpointError, DataError, ImageError, UsageError
from resnet_infer.model.checkpoints import load_checkpoint
from resnet_infer.pipeline.decode import decode
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.engine_manifest import EngineRecord
from resnet_infer.spec.label_files import labels_from_file
from resnet_infer.spec.manifest import KEY, Manifest
from resnet_infer.train.recipe import read_toml

CIFAR = (
    b"\x80\x02}(U\x0blabel_namesq\x01]U\x01aaU\x06labels]K\x00aU\tfilenames]U\x05a.pngaU\x04data"
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt\x52(K\x01K\x01M\x00\x0c\x86"
    b"cnumpy\ndtype\n(U\x02u1K\x00K\x01t\x52\x89T\x00\x0c\x00\x00" + bytes(3072) + b"tbu."
)
"""One image and its class names, as Python 2 wrote its pickles."""
MOST_READ = 8
"""Images of a fuzzed archive."""
_folder = tempfile.TemporaryDirectory(prefix="resnet-infer-fuzz-")


def _file(name: str, data: bytes) -> Path:
    path = Path(_folder.name) / name
    path.write_bytes(data)
    return path


def _read(source: Source) -> None:
    for sample in source.samples[:MOST_READ]:
        with contextlib.suppress(DataError, OSError):
            source.read(sample)


def image(data: bytes) -> None:
    """An encoded image."""
    try:
        x_CHW = decode(data)
    except ImageError:
        return
    assert x_CHW.dtype == torch.uint8
    assert x_CHW.shape[0] == 3


def _source(name: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        try:
            source = open_source(_file(name, data))
        except DataError as error:
            if name not in str(error):
                raise AssertionError(f"the file is not named: {error}") from error
            return
        _read(source)

    return run


def cifar(data: bytes) -> None:
    """A batch of CIFAR-10, and its names."""
    folder = Path(_folder.name) / "cifar"
    folder.mkdir(exist_ok=True)
    for name in ("test_batch", "batches.meta"):
        (folder / name).write_bytes(data)
    with contextlib.suppress(DataError):
        _read(open_source(folder))


def manifest(data: bytes) -> None:
    """The JSON in an artifact."""
    try:
        read = Manifest.from_json(data.decode("utf-8", "replace"), "fuzzed")
    except ArtifactError:
        return
    assert Manifest.from_json(read.to_json(), "again").to_json() == read.to_json()


def engine(data: bytes) -> None:
    """The JSON beside an engine."""
    with contextlib.suppress(ArtifactError):
        EngineRecord.from_json(data.decode("utf-8", "replace"), "fuzzed")


def _checkpoint(name: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(CheckpointError, ArtifactError, UsageError):
                load_checkpoint(str(_file(name, data)))

    return run


def onnx(data: bytes) -> None:
    """An ONNX file."""
    with contextlib.suppress(ArtifactError):
        load_graph(_file("x.onnx", data))


def labels(data: bytes) -> None:
    """A file of class names."""
    with contextlib.suppress(UsageError):
        labels_from_file(_file("labels.txt", data))


def recipe(data: bytes) -> None:
    """A recipe in TOML."""
    with contextlib.suppress(UsageError):
        read_toml(_file("recipe.toml", data))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "image": image,
    "zip": _source("x.zip"),
    "tar": _source("x.tar"),
    "parquet": _source("x.parquet"),
    "list": _source("x.txt"),
    "cifar": cifar,
    "manifest": manifest,
    "engine": engine,
    "pickle": _checkpoint("x.pth"),
    "safetensors": _checkpoint("x.safetensors"),
    "onnx": onnx,
    "labels": labels,
    "recipe": recipe,
}


def seeds() -> Mapping[str, list[bytes]]:
    """Well-formed input for each target, from which damage gets further than from nothing."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    images = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "TGA"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        images.append(file.getvalue())
    import tarfile

    members = [("cat/1.png", images[0]), ("dog/2.jpg", images[1]), ("dog/2.cls", b"1"), ("dog/2.json", b'{"label": 1}')]
    zips, tars = [], []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, data in [*members, ("in.zip", zips[0] if zips else b"")][: 4 + bool(zips)]:
                archive.writestr(name, data)
        zips.append(file.getvalue())
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, data in [*members, (f"{'long/' * (10 if form == 0 else 30)}3.png", images[0])]:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        tars.append(file.getvalue())
    from resnet_infer.spec.preprocessing import Preprocessing

    spec = spec_from_name("resnet20", classes=2)
    text = Manifest(spec=spec, preprocessing=Preprocessing(resize=32, crop=32)).to_json()
    weights = {"conv1.weight": torch.zeros(16, 3, 3, 3), "bn1.weight": torch.zeros(16)}
    saved, table = io.BytesIO(), io.BytesIO()
    torch.save(weights, saved)
    column = pa.array([{"bytes": images[0], "path": "1.png"}] * 3)
    parquet.write_table(pa.table({"image": column, "label": [0, 1, 0]}), table)
    return {
        "image": images,
        "zip": zips,
        "tar": tars,
        "parquet": [table.getvalue()],
        "list": [b"a.png\tcat\nb.png\tdog\n"],
        "cifar": [CIFAR],
        "manifest": [text.encode()],
        "engine": [
            json.dumps({"resnet_infer_engine": 1, "manifest": json.loads(text), "flavour": "tensorrt"}).encode()
        ],
        "pickle": [saved.getvalue(), pickle.dumps({"a": [1.0, "x"]}, 2)],
        "safetensors": [safetensors.torch.save(weights, {KEY: text})],
        "onnx": [b"\x08\x0a\x3a\x02\x12\x00"],
        "labels": [b"cat\ndog\n", b"n1\tcat\nn2\tdog\n"],
        "recipe": [b'name = "cifar10"\nbatch = 128\ndrops = [1, 2]\n'],
    }
