"""ONNX files of grey, RGB or alpha, run from RGB tiles: by NumPy's formula, and refused where channels differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.ort import OrtBackend
from resnet_infer.backends.ort_session import provider_settings
from resnet_infer.errors import ArtifactError
from resnet_infer.exporters.graphs import with_preprocessing
from resnet_infer.exporters.to_triton import Ends, config_pbtxt
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.shapes import BatchRange, ShapeRange

CLASSES = 10
KINDS = {
    "L": Preprocessing(resize=32, crop=32, mean=(0.45,), std=(0.22,)),
    "RGB": Preprocessing(resize=32, crop=32),
    "RGBA": Preprocessing(resize=32, crop=32, mean=(0.1, 0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7, 0.8)),
}


def weight(channels: int) -> NDArray[np.float32]:
    return np.random.default_rng(channels).normal(size=(channels, CLASSES)).astype(np.float32)


def written(path: Path, channels: int, preprocessing: Preprocessing | None = None) -> Path:
    """A classifier of the mean of every channel; with `preprocessing`, of bytes, channels innermost."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, "height", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(nodes, "net", [image], [logits], [numpy_helper.from_array(weight(channels), "weight")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if preprocessing:
        with_preprocessing(proto, preprocessing, "uint8-nhwc")
    onnx.save(proto, path)
    return path


def manifest(preprocessing: Preprocessing, input_format: Any = "normalized") -> Manifest:
    spec = spec_from_name("resnet20", CLASSES)
    return Manifest(spec=spec, preprocessing=preprocessing, head="pooled", input=input_format)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("inside", [False, True], ids=["normalised outside", "normalised inside"])
def test_scores_are_those_of_pillows_channels(
    tmp_path: Path, picture: Callable[..., Any], mode: str, inside: bool
) -> None:
    preprocessing = KINDS[mode]
    path = written(tmp_path / "net.onnx", preprocessing.channels, preprocessing if inside else None)
    pictures = [picture(32, 40, seed) for seed in range(3)]
    said = manifest(preprocessing, "uint8-nhwc" if inside else "normalized")
    backend = OrtBackend(path, said, "cpu")
    logits = backend.run(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), "pooled")[:, :, 0, 0].numpy()
    backend.close()
    values = np.stack([np.asarray(Image.fromarray(pixels).convert(mode)) for pixels in pictures])
    values = values.reshape(3, 32 * 40, -1).mean(1) / 255
    expected = ((values - preprocessing.mean) / preprocessing.std) @ weight(preprocessing.channels)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(("channels", "mode"), [(3, "L"), (1, "RGB"), (4, "RGB"), (3, "RGBA")])
def test_a_graph_of_other_channels_is_refused(tmp_path: Path, channels: int, mode: str) -> None:
    path = written(tmp_path / "net.onnx", channels)
    gives = KINDS[mode].channels
    with pytest.raises(ArtifactError, match=rf"net\.onnx: takes {channels} channels, .* gives {gives}; .*--mean"):
        OrtBackend(path, manifest(KINDS[mode]), "cpu")


@pytest.mark.parametrize("mode", KINDS)
def test_triton_and_tensorrt_are_told_the_channels(mode: str) -> None:
    preprocessing = KINDS[mode]
    config = config_pbtxt("net", manifest(preprocessing), Ends(), (), BatchRange(), engine=False)
    assert f"dims: [{preprocessing.channels}, -1, -1]" in config
    assert preprocessing.describe_values() in config
    of_bytes = config_pbtxt("net", manifest(preprocessing, "uint8-nhwc"), Ends(), (), BatchRange(), engine=False)
    assert "dims: [-1, -1, 3]" in of_bytes
    assert preprocessing.describe_values() in of_bytes
    profile = ShapeRange(min=(1, 32, 32), opt=(8, 32, 32), max=(8, 32, 32))
    options = RunOptions(profiles=(profile,))
    (_, settings), _ = provider_settings("tensorrt", torch.device("cuda", 0), options, channels=preprocessing.channels)
    assert settings["trt_profile_opt_shapes"] == f"input:8x{preprocessing.channels}x32x32"
    assert profile.describe(preprocessing.channels) == f"1..8 x {preprocessing.channels} x 32 x 32"
