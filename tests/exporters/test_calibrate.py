"""The search for activation ranges: what it tries, what it keeps, and that it judges on images it has not seen."""

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from resnet_infer.backends.load import Model, open_model
from resnet_infer.backends.onnx_file import stored_manifest
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.open import open_source
from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, GateError, UsageError
from resnet_infer.exporters.calibrate import METHODS, Quantization, candidates, quantize
from resnet_infer.exporters.graphs import float_graph
from resnet_infer.exporters.quantize import saturates_int8
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

SIDE = 16
LABELS = Labels(names=tuple("abcdefghij"))
Picture = NDArray[np.uint8]


class Recording:
    """A source that remembers what was read, and cannot read some."""

    left_out = ()

    def __init__(self, source: Source, broken: Sequence[str] = ()) -> None:
        self.name, self.samples, self.broken = source.name, source.samples, broken
        self.read_names: list[str] = []
        self._source = source

    def read(self, sample: Sample) -> Any:
        self.read_names.append(sample.name)
        return b"broken" if sample.name in self.broken else self._source.read(sample)


@pytest.fixture(scope="module")
def source(
    picture: Callable[..., Picture], encode: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Source]:
    """source(count): a zip of so many small PNGs in class folders."""
    folder = tmp_path_factory.mktemp("data")

    def made(count: int) -> Source:
        path = folder / f"{count}.zip"
        if not path.exists():
            with zipfile.ZipFile(path, "w") as archive:
                for number in range(count):
                    name = f"{LABELS.names[number % 10]}/{number:03}.png"
                    archive.writestr(name, encode(picture(SIDE, SIDE, number)))
        return open_source(path)

    return made


@pytest.fixture(scope="module")
def checkpoint(small_net: ResNet) -> Checkpoint:
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=SIDE, crop=SIDE), labels=LABELS)
    return Checkpoint(name="random", manifest=manifest, state_dict=dict(small_net.state_dict()))


@pytest.fixture(scope="module")
def graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    return float_graph(checkpoint, "pooled", "fp32")


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Model:
    return Model(name="random", manifest=checkpoint.manifest, backend=TorchBackend(checkpoint, "cpu"))


@pytest.fixture(scope="module")
def manifest(checkpoint: Checkpoint) -> Manifest:
    return replace(checkpoint.manifest, head="pooled", precision="int8")


def decoded(data: bytes) -> Any:
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_every_method_and_size_is_tried_and_the_closest_kept(
    graph: onnx.ModelProto,
    manifest: Manifest,
    reference: Model,
    source: Callable[[int], Source],
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = Quantization(data=source(256), images=128)
    advanced: list[float] = []
    _, record = quantize(graph, manifest, reference, wanted, advance=advanced.append)
    table = record["table"]
    assert [(row["method"], row["images"]) for row in table] == [(m, size) for m in METHODS for size in (32, 128)]
    assert sum(advanced) == candidates(wanted) == 6
    assert len({row["kl_divergence"] for row in table}) == 6  # no two of them are one candidate
    best = max(table, key=lambda row: (row["agreement"], -row["kl_divergence"]))
    assert (record["method"], record["images"]) == (best["method"], best["images"])
    assert (record["held_out"], record["data"], record["kept_float"]) == (128, wanted.data.name, ["classifier"])
    assert record["reduce_range"] == saturates_int8()
    assert capsys.readouterr().out == ""


def test_of_candidates_that_agree_alike_the_one_of_least_divergence_is_kept(
    graph: onnx.ModelProto, manifest: Manifest, checkpoint: Checkpoint, source: Callable[[int], Source]
) -> None:
    """One class is far ahead in every image, so that all candidates agree on all."""
    ahead = checkpoint.state_dict["fc.bias"] + 20 * torch.eye(10)[3]
    changed = replace(checkpoint, state_dict=dict(checkpoint.state_dict) | {"fc.bias": ahead})
    proto = onnx.load_from_string(graph.SerializeToString())
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "net.fc.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(ahead.numpy(), bias.name))
    model = Model(name="random", manifest=manifest, backend=TorchBackend(changed, "cpu"))
    _, record = quantize(proto, manifest, model, Quantization(data=source(64)))
    assert [row["agreement"] for row in record["table"]] == [1, 1, 1]
    assert record["method"] == min(record["table"], key=lambda row: row["kl_divergence"])["method"]


def test_images_to_judge_by_are_others_and_the_table_is_what_plain_onnxruntime_finds_on_them(
    graph: onnx.ModelProto, manifest: Manifest, reference: Model, source: Callable[[int], Source]
) -> None:
    data, count = Recording(source(80)), 36
    wanted = Quantization(data=data, images=count, method="minmax", arrangement="tensorrt")
    proto, record = quantize(graph, manifest, reference, wanted)
    held_out, calibration, again = (data.read_names[at : at + count] for at in (0, count, 2 * count))
    assert len(data.read_names) == 3 * count
    assert sorted(again) == sorted(held_out)
    assert len(set(held_out) | set(calibration)) == 2 * count
    assert {len({name[0] for name in part}) for part in (held_out, calibration)} == {10}  # not the first classes only
    (row,) = record["table"]
    assert (record["held_out"], row["images"], record["reduce_range"]) == (count, count, False)

    by_name = {sample.name: sample for sample in data.samples}
    x_BHWC = np.stack([np.asarray(decoded(data.read(by_name[name]))) for name in held_out])
    mean, std = (np.array(triple) for triple in (IMAGENET_MEAN, IMAGENET_STD))
    x_BCHW = ((x_BHWC / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"input": x_BCHW})[0]).double().log_softmax(1)
    tiles = torch.from_numpy(x_BHWC).permute(0, 3, 1, 2)
    expected = reference.backend.run(tiles, "pooled")[:, :, 0, 0].double().log_softmax(1)
    truth = torch.tensor([LABELS.names.index(name[0]) for name in held_out])
    assert row["agreement"] == pytest.approx(float((found.argmax(1) == expected.argmax(1)).double().mean()), abs=1e-4)
    divergence = float((expected.exp() * (expected - found)).sum(1).mean())
    assert row["kl_divergence"] == pytest.approx(divergence, rel=0.05)
    assert row["held_out_errors"] == int((found.argmax(1) != truth).sum())
    assert record["reference_held_out_errors"] == int((expected.argmax(1) != truth).sum())


def test_an_unreadable_image_is_named_on_either_side(
    graph: onnx.ModelProto, manifest: Manifest, reference: Model, source: Callable[[int], Source]
) -> None:
    data = Recording(source(80))
    wanted = Quantization(data=data, images=32, method="minmax")
    quantize(graph, manifest, reference, wanted)
    for name in (data.read_names[5], data.read_names[32 + 5]):  # one held out, one to calibrate on
        with pytest.raises(DataError, match=name):
            quantize(graph, manifest, reference, replace(wanted, data=Recording(source(80), broken=[name])))


def test_too_few_images_say_how_many_are_needed(
    graph: onnx.ModelProto, manifest: Manifest, reference: Model, source: Callable[[int], Source]
) -> None:
    with pytest.raises(DataError, match=r"63\.zip: 63 images are too few.*at least 64"):
        quantize(graph, manifest, reference, Quantization(data=source(63)))
    with pytest.raises(DataError, match="at least 64"):
        candidates(Quantization(data=source(63)))
    assert candidates(Quantization(data=source(64))) == 3
    assert candidates(Quantization(data=source(64), method="entropy")) == 1


def test_methods_and_numbers_that_are_none_are_refused(source: Callable[[int], Source]) -> None:
    with pytest.raises(UsageError, match="'average' is not one of search, minmax, entropy, percentile"):
        Quantization(data=source(64), method="average")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 32; got 31"):
        Quantization(data=source(64), images=31)


def test_a_network_that_int8_cannot_hold_is_not_written(
    checkpoint: Checkpoint, source: Callable[[int], Source], tmp_path: Path
) -> None:
    """Classes whose weights differ by less than a step of int8 are one class in it."""
    state = dict(checkpoint.state_dict)
    common = torch.rand(64, generator=torch.Generator().manual_seed(1)) + 0.5
    state |= {"fc.weight": common + 1e-4 * state["fc.weight"], "fc.bias": torch.zeros(10)}
    path = tmp_path / "net.onnx"
    path.write_bytes(b"what was here before")
    wanted = Quantization(data=source(80), method="minmax", keep_float=())
    with pytest.raises(GateError, match=r"best of 1 int8 candidates agrees.*--keep-float") as caught:
        export_onnx(replace(checkpoint, state_dict=state), path, precision="int8", quantization=wanted)
    assert caught.value.exit_code == 3
    assert path.read_bytes() == b"what was here before"


def test_an_exported_file_keeps_the_record_and_runs_with_no_flags(
    checkpoint: Checkpoint, reference: Model, source: Callable[[int], Source], picture: Any, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    wanted = Quantization(data=source(80), method="percentile", keep_float=("stem", "classifier"))
    returned = export_onnx(checkpoint, path, precision="int8", quantization=wanted, input_format="uint8-nhwc")
    stored = stored_manifest(onnx.load(path), str(path))
    assert stored is not None
    assert (stored.precision, stored.input) == ("int8", "uint8-nhwc")
    assert stored.quantization == returned.quantization
    assert (stored.quantization["method"], stored.quantization["images"]) == ("percentile", 40)
    assert stored.quantization["kept_float"] == ["stem", "classifier"]
    assert [layer.type for layer in read_layers(onnx.load(path)) if layer.type != "int8"] == ["fp32", "fp32"]
    model = open_model(str(path), device="cpu")
    assert model.backend.info.precision == "int8"
    tiles = torch.stack([torch.from_numpy(picture(SIDE, SIDE, seed)) for seed in range(20)]).permute(0, 3, 1, 2)
    found, expected = (backend.run(tiles, "pooled") for backend in (model.backend, reference.backend))
    assert 0 < float((found - expected).abs().mean()) < 0.05 * float(expected.std())


def test_fp8_is_arranged_for_tensorrt_or_refused(
    graph: onnx.ModelProto, manifest: Manifest, reference: Model, source: Callable[[int], Source]
) -> None:
    wanted = Quantization(data=source(64), images=32, method="minmax")
    with pytest.raises(UsageError, match="fp8 is for TensorRT"):
        quantize(graph, replace(manifest, precision="fp8"), reference, wanted)


def test_a_dense_head_of_a_larger_crop_is_judged_where_its_map_is_one_window(
    small_net: ResNet, source: Callable[[int], Source], tmp_path: Path
) -> None:
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=40, crop=40), labels=LABELS)
    larger = Checkpoint(name="random", manifest=manifest, state_dict=dict(small_net.state_dict()))
    wanted = Quantization(data=source(64), images=32, method="minmax")
    made = export_onnx(larger, tmp_path / "net.onnx", head="dense", precision="int8", quantization=wanted)
    assert made.quantization["held_out"] == 32


def test_folders_that_are_no_classes_of_the_model_do_not_matter(
    graph: onnx.ModelProto,
    manifest: Manifest,
    reference: Model,
    picture: Callable[..., Picture],
    encode: Any,
    tmp_path: Path,
) -> None:
    with zipfile.ZipFile(tmp_path / "years.zip", "w") as archive:
        for number in range(64):
            archive.writestr(f"{2019 + number % 2}/{number}.png", encode(picture(SIDE, SIDE, number)))
    wanted = Quantization(data=open_source(tmp_path / "years.zip"), images=32, method="minmax")
    _, record = quantize(graph, manifest, reference, wanted)
    assert record["reference_held_out_errors"] is None
    assert record["table"][0]["agreement"] > 0.8
