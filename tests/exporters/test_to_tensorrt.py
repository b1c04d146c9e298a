"""Real engines from TensorRT-RTX, which builds without a GPU: what they hold, what they say, when none is written."""

import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import create_calibrator

from resnet_infer.backends.engine_file import read_engine
from resnet_infer.backends.onnx_file import graph_sha256, stored_manifest
from resnet_infer.backends.onnx_layers import read_layers
from resnet_infer.backends.tensorrt_api import load_flavour, make_log, read_network
from resnet_infer.data.open import open_source
from resnet_infer.errors import ArtifactError, BackendError, GateError, UsageError
from resnet_infer.exporters.calibrate import Once, Quantization
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.graphs import float_graph
from resnet_infer.exporters.quantize import CALIBRATED_OPERATORS, quantized_graph
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec import manifest as manifests
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.engine_manifest import EngineRecord, record_path
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import QUANTIZED, Precision, summary
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import PAPER_SCALES, protocol_of_head
from resnet_infer.spec.shapes import BatchRange, ShapeRange, profiles_for

pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

ONE_PROFILE = (ShapeRange(min=(1, 32, 32), opt=(8, 32, 32), max=(16, 32, 32)),)


@pytest.fixture(scope="module")
def checkpoint_of(random_net: Callable[..., ResNet]) -> Callable[[str], Checkpoint]:
    def made(name: str) -> Checkpoint:
        net = random_net(name, 10)
        side = net.spec.native_size
        manifest = Manifest(spec=net.spec, preprocessing=Preprocessing(resize=side, crop=side))
        return Checkpoint(name=name, manifest=manifest, state_dict=net.state_dict())

    return made


@pytest.fixture(scope="module")
def pictures(
    tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., object], encode: Callable[..., bytes]
) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for seed in range(64):
            archive.writestr(f"{seed}.png", encode(picture(224, 224, seed)))
    return path


@pytest.fixture(scope="module")
def small(checkpoint_of: Callable[[str], Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet20 as fp32 ONNX."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    export_onnx(checkpoint_of("resnet20"), path)
    return path


def options(folder: Path, **changed: Any) -> BuildOptions:
    plain = BuildOptions(flavour="tensorrt_rtx", profiles=ONE_PROFILE, cache=folder / "cache")
    return replace(plain, **changed)


@pytest.fixture(scope="module")
def graph_of(
    checkpoint_of: Callable[[str], Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Head, Precision], Path]:
    """graph_of(architecture, head, precision): our ONNX file; int8 ranges are from noise, only types matter here."""
    folder = tmp_path_factory.mktemp("graphs")

    def made(name: str, head: Head, precision: Precision) -> Path:
        checkpoint = checkpoint_of(name)
        path = folder / f"{name}.{head}.{precision}.onnx"
        proto = float_graph(checkpoint, head, "fp32" if precision in QUANTIZED else precision)
        if precision in QUANTIZED:
            onnx.save(proto, path)
            calibrator = create_calibrator(path, CALIBRATED_OPERATORS, str(folder / "augmented.onnx"))
            batch = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
            calibrator.collect_data(Once(batch))
            ranges = calibrator.compute_data()
            proto = quantized_graph(proto, ranges, precision=precision, arrangement="tensorrt", keep_float=())
        manifest = replace(checkpoint.manifest, head=head, precision=precision)
        onnx.helper.set_model_props(proto, {manifests.KEY: manifest.to_json()})
        onnx.save(proto, path)
        return path

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head", "precision"),
    [  # every pair of two of them
        ("resnet18", "pooled", "fp32"), ("resnet18", "dense", "fp16"), ("resnet18", "dense", "int8"),
        ("resnet50", "dense", "fp32"), ("resnet50", "pooled", "fp16"), ("resnet50", "pooled", "int8"),
    ],
)  # fmt: skip
def test_engines_of_five_profiles_hold_the_precision_of_their_graph(
    graph_of: Callable[[str, Head, Precision], Path], tmp_path: Path, name: str, head: Head, precision: Precision
) -> None:
    graph = graph_of(name, head, precision)
    manifest = stored_manifest(onnx.load(graph), "graph")
    assert manifest is not None
    protocol = protocol_of_head(head, manifest.spec, manifest.preprocessing, PAPER_SCALES)
    profiles = profiles_for(protocol, manifest.spec, BatchRange())
    built = build_engine(graph, tmp_path / "net.engine", options(tmp_path, profiles=profiles))

    record, plan = read_engine(tmp_path / "net.engine")
    assert record == built.record
    assert record.manifest == manifest
    assert len(record.profiles) == 5
    assert (record.flavour, record.gpu, len(plan)) == ("tensorrt_rtx", "", record.size_bytes)
    counted = {(row["operator"], row["type"]): row["layers"] for row in summary(record.layers)}
    convolutions = sum(1 for _ in spec_from_name(name).convs()) + (head == "dense")
    assert counted["Conv", precision] == convolutions
    assert counted["Add", precision] == sum(spec_from_name(name).depths)
    assert {kind for _, kind in counted} == {precision}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_the_other_precisions_build_too(
    graph_of: Callable[[str, Head, Precision], Path], tmp_path: Path, precision: Precision
) -> None:
    profiles = (ShapeRange(min=(1, 224, 224), opt=(8, 224, 224), max=(8, 224, 224)),)
    graph = graph_of("resnet18", "pooled", precision)
    record = build_engine(graph, tmp_path / "net.engine", options(tmp_path, profiles=profiles)).record
    assert {layer.type for layer in record.layers} == {precision}


def test_what_tensorrt_parsed_is_what_the_graph_says(small: Path) -> None:
    trt = load_flavour("tensorrt_rtx")
    log = make_log(trt)
    network = trt.Builder(log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log).parse(small.read_bytes())
    ours, theirs = read_layers(onnx.load(small)), read_network(trt, network)
    assert [(layer.type, layer.parameters) for layer in theirs] == [(layer.type, layer.parameters) for layer in ours]


def test_the_plan_is_plain_and_the_build_is_kept_by_its_content(small: Path, tmp_path: Path) -> None:
    first = build_engine(small, tmp_path / "a.engine", options(tmp_path))
    again = build_engine(small, tmp_path / "b.engine", options(tmp_path))
    assert (first.cache_hit, again.cache_hit, again.key) == (False, True, first.key)
    assert (tmp_path / "a.engine").read_bytes() == (tmp_path / "b.engine").read_bytes()
    assert (tmp_path / "a.engine").read_bytes().startswith(b"vtrt")  # TensorRT-RTX's own first bytes
    for changed in (
        {"optimization_level": 1},
        {"capabilities": ((8, 9),)},
        {"profiles": (replace(ONE_PROFILE[0], max=(17, 32, 32)),)},
        {"tf32": True},
    ):
        other = build_engine(small, tmp_path / "c.engine", options(tmp_path, **changed))
        assert not other.cache_hit
        assert other.key != first.key
    assert not build_engine(small, tmp_path / "d.engine", options(tmp_path, use_cache=False)).cache_hit


def test_a_damaged_kept_engine_is_built_anew(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = build_engine(small, tmp_path / "a.engine", options(tmp_path))
    kept = tmp_path / "cache" / f"{first.key}.engine"
    kept.write_bytes(kept.read_bytes()[:1000])
    assert not build_engine(small, tmp_path / "b.engine", options(tmp_path)).cache_hit
    assert "truncated" in capsys.readouterr().err
    assert build_engine(small, tmp_path / "c.engine", options(tmp_path)).cache_hit


def test_a_manifest_change_alone_is_no_new_graph(small: Path, tmp_path: Path) -> None:
    proto = onnx.load(small)
    onnx.helper.set_model_props(proto, {"resnet_infer": "another report"})
    assert graph_sha256(proto) == graph_sha256(onnx.load(small))
    next(t for t in proto.graph.initializer if t.name == "net.fc.bias").raw_data = bytes(40)
    assert graph_sha256(proto) != graph_sha256(onnx.load(small))


def test_options_reach_the_record(small: Path, tmp_path: Path) -> None:
    wanted = options(tmp_path, capabilities=((8, 6), (12, 0)), optimization_level=1, workspace_mib=64, tf32=True)
    record = build_engine(small, tmp_path / "a.engine", wanted).record
    assert record.capabilities == ((8, 6), (12, 0))
    assert record.manifest.precision == "tf32"
    assert (record.options["optimization_level"], record.options["workspace_mib"]) == (1, 64)


def test_an_fp16_that_is_fp32_exits_3_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    """The complaint this guards against: a graph in fp32 under the name of fp16, built without a word."""
    proto = onnx.load(small)
    (prop,) = proto.metadata_props
    prop.value = json.dumps(manifests.with_check(json.loads(prop.value) | {"precision": "fp16"}))
    onnx.save(proto, tmp_path / "liar.onnx")
    with pytest.raises(GateError, match=r"liar\.onnx: claims fp16, but 20 of its 20 layers") as caught:
        build_engine(tmp_path / "liar.onnx", tmp_path / "liar.engine", options(tmp_path))
    assert caught.value.exit_code == 3
    assert [p.name for p in tmp_path.iterdir()] == ["liar.onnx"]


def test_graphs_that_no_engine_is_built_from(
    small: Path, checkpoint_of: Callable[[str], Checkpoint], pictures: Path, tmp_path: Path
) -> None:
    bare = onnx.load(small)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    quantization = Quantization(data=open_source(pictures), images=32, method="minmax")
    export_onnx(checkpoint_of("resnet20"), tmp_path / "cpu.onnx", precision="int8", quantization=quantization)
    target = tmp_path / "x.engine"
    for source, error, words in (
        (tmp_path / "bare.onnx", ArtifactError, "no resnet-infer manifest"),
        (tmp_path / "bad.onnx", ArtifactError, "not an ONNX file"),
        (tmp_path / "none.onnx", UsageError, "no such file"),
        (tmp_path / "cpu.onnx", ArtifactError, "quantised for onnxruntime.*--arrangement tensorrt"),
    ):
        with pytest.raises(error, match=words):
            build_engine(source, target, options(tmp_path))
    with pytest.raises(UsageError, match=r"must end in \.engine"):
        build_engine(small, tmp_path / "x.plan9", options(tmp_path))
    with pytest.raises(UsageError, match=r"9\.0: tensorrt_rtx builds for 7\.5, 8\.0"):
        build_engine(small, target, options(tmp_path, capabilities=((9, 0),)))
    assert not target.exists()
    assert not record_path(target).exists()


def test_options_that_the_flavour_does_not_have() -> None:
    for changed, words in (
        ({"optimization_level": 6}, "0..5"),
        ({"workspace_mib": 0}, "at least 1 MiB"),
        ({"hardware_compatibility": "any"}, "ampere-plus"),
        ({"version_compatible": True}, "RTX engine"),
        ({"flavour": "tensorrt", "capabilities": ((8, 9),)}, "is for tensorrt-rtx"),
    ):
        with pytest.raises(UsageError, match=words):
            BuildOptions(**{"flavour": "tensorrt_rtx", "profiles": ONE_PROFILE} | changed)  # type: ignore[arg-type]


def test_a_flavour_that_is_not_installed_says_how_to_get_it() -> None:
    if __import__("importlib").util.find_spec("tensorrt"):
        pytest.skip("tensorrt is installed here")
    with pytest.raises(BackendError, match=r"pip install 'resnet-infer\[tensorrt\]'"):
        load_flavour("tensorrt")


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_a_build_and_leaves_nothing(small: Path, tmp_path: Path) -> None:
    begun, interrupted = threading.Event(), threading.Event()

    def slow(phase: str, step: int, steps: int) -> None:
        begun.set()
        interrupted.wait(20)  # however slow the machine, the signal comes while the build goes on

    def interrupt() -> None:
        begun.wait(20)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        interrupted.set()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        build_engine(small, tmp_path / "a.engine", options(tmp_path), progress=slow)
    assert list(tmp_path.iterdir()) == []


def test_the_record_names_no_path_of_this_machine(small: Path, tmp_path: Path) -> None:
    build_engine(small, tmp_path / "a.engine", options(tmp_path))
    text = record_path(tmp_path / "a.engine").read_text("utf-8")
    assert str(tmp_path) not in text
    assert EngineRecord.from_json(text, "here").to_json() == text
