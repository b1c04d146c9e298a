"""Model repositories, parsed with Triton's own protobuf and held against the ONNX graph and the engine in them."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from google.protobuf import text_format

from resnet_infer.backends.engine_file import read_engine, write_engine
from resnet_infer.backends.onnx_file import stored_manifest
from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.exporters.to_triton import export_triton
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import build
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import CIFAR_SCALES, multi_scale, single_crop
from resnet_infer.spec.shapes import BatchRange, profiles_for

model_config_pb2 = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]").model_config_pb2
np_to_triton_dtype = pytest.importorskip("tritonclient.utils").np_to_triton_dtype

Files = dict[str, Path]
SPEC = replace(spec_from_name("resnet20"), name="resnet8", depths=(1, 1, 1))
LABELS = Labels(
    names=("aeroplane", "white  wolf", 'a "quoted" cat', "Füchse", "犬", "back\\slash", "g", "h", "i", "j\n")
)
ONNX: dict[str, dict[str, Any]] = {
    "pooled": {},
    "dense": {"head": "dense"},
    "fp16": {"precision": "fp16"},
    "bytes": {"input_format": "uint8-nhwc"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One exported ONNX file of every kind."""
    torch.manual_seed(3)
    manifest = Manifest(spec=SPEC, preprocessing=Preprocessing(resize=32, crop=32), labels=LABELS)
    checkpoint = Checkpoint(name="random", manifest=manifest, state_dict=build(SPEC).state_dict())
    folder = tmp_path_factory.mktemp("onnx")
    for name, options in ONNX.items():
        export_onnx(checkpoint, folder / f"{name}.onnx", **options)
    return {name: folder / f"{name}.onnx" for name in ONNX}


@pytest.fixture(scope="module")
def engines(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Real engines: whole images with a profile a scale, one crop size, and none smaller than two images."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    folder = tmp_path_factory.mktemp("engines")
    crop = single_crop(32, 32)
    wanted = {
        "five": ("dense", profiles_for(multi_scale(CIFAR_SCALES), SPEC, BatchRange())),
        "crop": ("pooled", profiles_for(crop, SPEC, BatchRange(min=1, opt=4, max=8))),
        "pairs": ("pooled", profiles_for(crop, SPEC, BatchRange(min=2, opt=4, max=8))),
    }
    for name, (source, profiles) in wanted.items():
        options = BuildOptions(flavour="tensorrt_rtx", profiles=profiles, cache=folder / "cache")
        build_engine(files[source], folder / f"{name}.engine", options)
    return {name: folder / f"{name}.engine" for name in wanted}


def config_of(folder: Path) -> Any:
    """config.pbtxt as Triton reads it; an unknown field or a wrong type is an error."""
    text = (folder / "config.pbtxt").read_text("utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def type_and_dims(value: Any) -> tuple[str, list[int]]:
    """A graph's input or output in Triton's terms: its type, and its dimensions without the batch, -1 for any."""
    tensor = value.type.tensor_type
    kind = np_to_triton_dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return f"TYPE_{kind}", [dim.dim_value or -1 for dim in tensor.shape.dim][1:]


def with_manifest(source: Path, path: Path, **changes: Any) -> Path:
    """A copy of an exported file whose manifest says something else."""
    proto = onnx.load(source)
    stored = stored_manifest(proto, str(source))
    assert stored is not None
    onnx.helper.set_model_props(proto, {manifests.KEY: replace(stored, **changes).to_json()})
    onnx.save(proto, path)
    return path


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow over 64 KiB, as on a disk that fills up while it is written."""
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ONNX)
def test_the_configuration_of_an_onnx_file_is_that_of_its_graph(files: Files, tmp_path: Path, kind: str) -> None:
    folder = export_triton(files[kind], tmp_path / "repository")
    assert folder == tmp_path / "repository" / kind
    assert contents(tmp_path / "repository") == {
        f"{kind}/config.pbtxt", f"{kind}/labels.txt", f"{kind}/1/model.onnx",
    }  # fmt: skip
    assert (folder / "1" / "model.onnx").read_bytes() == files[kind].read_bytes()
    config, graph = config_of(folder), onnx.load(files[kind]).graph
    assert config.name == kind  # Triton refuses another name than the folder's
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 128)
    for ours, theirs in ((config.input, graph.input), (config.output, graph.output)):
        assert [entry.name for entry in ours] == [value.name for value in theirs]
        found = (model_config_pb2.DataType.Name(ours[0].data_type), list(ours[0].dims))
        assert found == type_and_dims(theirs[0])
    assert list(config.dynamic_batching.preferred_batch_size) == [32, 128]
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert not config.instance_group
    assert config.parameters["architecture"].string_value == "resnet8"


def test_types_and_dimensions_by_hand(files: Files, tmp_path: Path) -> None:
    configs = {kind: config_of(export_triton(path, tmp_path)) for kind, path in files.items()}
    pb = model_config_pb2
    inputs = {kind: (c.input[0].data_type, c.input[0].format, list(c.input[0].dims)) for kind, c in configs.items()}
    nchw = pb.ModelInput.FORMAT_NCHW
    assert inputs == {
        "pooled": (pb.TYPE_FP32, nchw, [3, -1, -1]),
        "dense": (pb.TYPE_FP32, nchw, [3, -1, -1]),
        "fp16": (pb.TYPE_FP16, nchw, [3, -1, -1]),
        "bytes": (pb.TYPE_UINT8, pb.ModelInput.FORMAT_NHWC, [-1, -1, 3]),
    }
    outputs = {kind: (c.output[0].data_type, list(c.output[0].dims)) for kind, c in configs.items()}
    assert outputs == {
        "pooled": (pb.TYPE_FP32, [10]),
        "dense": (pb.TYPE_FP32, [10, -1, -1]),
        "fp16": (pb.TYPE_FP16, [10]),
        "bytes": (pb.TYPE_FP32, [10]),
    }
    assert {kind: c.output[0].label_filename for kind, c in configs.items()} == {
        "pooled": "labels.txt", "dense": "", "fp16": "labels.txt", "bytes": "labels.txt",
    }  # fmt: skip  # a map has no one best class
    assert "RGB bytes" in configs["bytes"].parameters["input"].string_value
    assert "mean" in configs["pooled"].parameters["input"].string_value


def test_batch_sizes_of_an_onnx_file_are_those_asked_for(files: Files, tmp_path: Path) -> None:
    config = config_of(export_triton(files["pooled"], tmp_path, batch=BatchRange(min=1, opt=4, max=16)))
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]


def test_an_engine_is_served_with_all_its_five_profiles(engines: Files, tmp_path: Path) -> None:
    """Batches: 32 and 128 native tiles' pixels over those of a 4:3 image at each scale, worked out by hand."""
    folder = export_triton(engines["five"], tmp_path, "whole-images")
    assert contents(folder) == {"config.pbtxt", "labels.txt", "1/model.plan", "1/model.plan.json"}
    assert read_engine(folder / "1" / "model.plan") == read_engine(engines["five"])
    config = config_of(folder)
    assert (config.name, config.platform) == ("whole-images", "tensorrt_plan")
    assert config.max_batch_size == 42  # what the largest scale takes: 128 * 32 * 32 / (48 * 64)
    assert list(config.dynamic_batching.preferred_batch_size) == [11, 13, 15, 19, 24, 42]
    assert list(config.input[0].dims) == [3, -1, -1]
    assert list(config.output[0].dims) == [10, -1, -1]
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(group.profile) == ["0", "1", "2", "3", "4"]


def test_an_engine_of_one_size_states_it(engines: Files, tmp_path: Path) -> None:
    config = config_of(export_triton(engines["crop"], tmp_path))
    assert list(config.input[0].dims) == [3, 32, 32]
    assert list(config.output[0].dims) == [10]
    assert config.max_batch_size == 8
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert list(config.instance_group[0].profile) == ["0"]


def test_an_engine_that_takes_no_single_image_is_refused(engines: Files, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"batches of 2 and more.*--batch-range that starts at 1"):
        export_triton(engines["pairs"], tmp_path / "repository")
    assert not list(tmp_path.iterdir())


def test_a_line_of_the_labels_is_a_class(files: Files, tmp_path: Path) -> None:
    folder = export_triton(files["pooled"], tmp_path)
    text = (folder / "labels.txt").read_bytes().decode("utf-8")
    expected = ["aeroplane", "white wolf", 'a "quoted" cat', "Füchse", "犬", "back\\slash", "g", "h", "i", "j"]
    assert text.split("\n") == [*expected, ""]


def test_classes_without_names_are_numbered(files: Files, tmp_path: Path) -> None:
    nameless = with_manifest(files["pooled"], tmp_path / "nameless.onnx", labels=None)
    assert (export_triton(nameless, tmp_path) / "labels.txt").read_text() == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"


@pytest.mark.parametrize(
    "name", ['a "quoted" net', "Füchse 犬", "back\\slash\\n", "line\nbreak\ttab", "'single'", "x{y}: [#"]
)
def test_any_name_of_an_architecture_is_one_value_of_the_configuration(files: Files, tmp_path: Path, name: str) -> None:
    odd = with_manifest(files["pooled"], tmp_path / "odd.onnx", spec=replace(SPEC, name=name))
    config = config_of(export_triton(odd, tmp_path))
    assert config.parameters["architecture"].string_value == name
    assert config.name == "odd"


@pytest.mark.parametrize(("file", "name"), [
    ('my "net" é.v2.onnx', "my__net___.v2"), ("犬.onnx", "_"), ("resnet20-B_1.ONNX", "resnet20-B_1"),
])  # fmt: skip
def test_a_name_made_from_the_files_is_one_that_triton_takes(
    files: Files, tmp_path: Path, file: str, name: str
) -> None:
    path = tmp_path / file
    path.write_bytes(files["pooled"].read_bytes())
    folder = export_triton(path, tmp_path / "repository")
    assert folder.name == config_of(folder).name == name


@pytest.mark.parametrize(
    "name", [".", "..", "../up", "a/b", "a b", 'a"', "-a", ".hidden", "é", "a\n", "x" * 129, "a\0"]
)
def test_a_name_that_is_no_folder_is_refused(files: Files, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        export_triton(files["pooled"], tmp_path / "repository", name)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_refused_and_what_is_there_stays(files: Files, tmp_path: Path) -> None:
    folder = export_triton(files["pooled"], tmp_path, "net")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"net: already exists; choose another --name"):
        export_triton(files["dense"], tmp_path, "net")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(UsageError, match="already exists"):
        export_triton(files["dense"], tmp_path, "file")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_files_that_are_not_ours_leave_nothing(files: Files, engines: Files, tmp_path: Path) -> None:
    proto = onnx.load(files["pooled"])
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    (tmp_path / "text.onnx").write_bytes(b"no model")
    (tmp_path / "bare.engine").write_bytes(engines["crop"].read_bytes())
    record, plan = read_engine(engines["crop"])
    write_engine(record, plan, tmp_path / "cut.engine")
    (tmp_path / "cut.engine").write_bytes(plan[:-1])
    write_engine(record, plan, tmp_path / "other.plan")
    (tmp_path / "other.plan").write_bytes(plan[::-1])
    for name, words in {
        "foreign.onnx": "no resnet-infer manifest",
        "text.onnx": "not an ONNX file",
        "bare.engine": r"bare\.engine\.json is not beside it",
        "cut.engine": "truncated",
        "other.plan": r"not the engine that other\.plan\.json describes",
    }.items():
        with pytest.raises(ArtifactError, match=words):
            export_triton(tmp_path / name, tmp_path / "repository")
    for name in ("missing.onnx", "missing.engine"):
        with pytest.raises(UsageError, match=f"{name}: no such file"):
            export_triton(tmp_path / name, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_fp8_is_refused_with_what_to_do(files: Files, tmp_path: Path) -> None:
    claimed = with_manifest(files["pooled"], tmp_path / "net.onnx", precision="fp8")
    with pytest.raises(UsageError, match=r"does not run fp8; build an engine"):
        export_triton(claimed, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_repository_that_cannot_be_a_folder_is_refused(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    for repository in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"cannot be written|already exists"):
            export_triton(files["pooled"], repository)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_fills_up_leaves_no_part_of_a_model(files: Files, engines: Files, tmp_path: Path) -> None:
    for artifact in (files["pooled"], engines["crop"]):
        assert artifact.stat().st_size > 2**16
        with full_disk(), pytest.raises(UsageError, match="cannot be written"):
            export_triton(artifact, tmp_path)
        assert not list(tmp_path.iterdir())
