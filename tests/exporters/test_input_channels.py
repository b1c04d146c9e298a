"""Graphs that take bytes do inside what `Normalize` does outside: order, range, grey, alpha, in any layout and type."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from resnet_infer.exporters.emulation import emulated
from resnet_infer.exporters.graphs import with_preprocessing
from resnet_infer.spec.preprocessing import Preprocessing

CAFFE = Preprocessing(mean=(103.939, 116.779, 123.68), std=(1, 1, 1), channel_order="bgr", input_range="0-255")
KINDS = {
    "rgb": Preprocessing(),
    "caffe": CAFFE,
    "bgr": Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), channel_order="bgr"),
    "grey": Preprocessing(mean=(0.45,), std=(0.22,)),
    "grey bytes": Preprocessing(mean=(0,), std=(1,), input_range="0-255"),
    "rgba": Preprocessing(mean=(0.1, 0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7, 0.8)),
    "bgra": Preprocessing(mean=(10, 20, 30, 40), std=(50, 60, 70, 80), channel_order="bgr", input_range="0-255"),
}


def expected(x_BHWC: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float64]:
    """By Pillow and the definition: (B, channels, H, W)."""
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[preprocessing.channels]
    images = [np.asarray(Image.fromarray(pixels).convert(mode)) for pixels in x_BHWC]
    values = np.stack(images).reshape(*x_BHWC.shape[:3], -1).astype(np.float64)
    if preprocessing.channel_order == "bgr":
        values[..., :3] = values[..., 2::-1].copy()
    values /= 255 if preprocessing.input_range == "0-1" else 1
    normalised: NDArray[np.float64] = ((values - preprocessing.mean) / preprocessing.std).transpose(0, 3, 1, 2)
    return normalised


def identity(channels: int, kind: int) -> onnx.ModelProto:
    """A graph that gives its input back."""
    shape = ["batch", channels, "height", "width"]
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in ("input", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["logits"])], "net", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(proto: onnx.ModelProto, x: NDArray[np.uint8]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["logits"], {"input": x})
    result: NDArray[Any] = scores
    return result


@pytest.fixture
def images(picture: Callable[..., Any]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(1).integers(0, 256, (2, 19, 23, 3), dtype=np.uint8)
    return np.concatenate((noise, picture(19, 23, 1)[None]))


@pytest.mark.parametrize(("name", "layout"), list(itertools.product(KINDS, ["uint8-nchw", "uint8-nhwc"])))
def test_bytes_become_the_networks_input_inside_the_graph(name: str, layout: Any, images: NDArray[np.uint8]) -> None:
    preprocessing = KINDS[name]
    proto = identity(preprocessing.channels, TensorProto.FLOAT)
    with_preprocessing(proto, preprocessing, layout)
    onnx.checker.check_model(proto, full_check=True)
    x = images if layout == "uint8-nhwc" else images.transpose(0, 3, 1, 2).copy()
    wanted = expected(images, preprocessing)
    np.testing.assert_allclose(run(proto, x), wanted, atol=1e-6 * max(1, float(np.abs(wanted).max())))


@pytest.mark.parametrize("name", KINDS)
def test_it_is_in_fp32_whatever_the_graphs_type(name: str, images: NDArray[np.uint8]) -> None:
    """Rounded once, at its end: grey of fp16 sums would be off by levels."""
    preprocessing = KINDS[name]
    wanted = expected(images, preprocessing).astype(np.float32)
    proto = identity(preprocessing.channels, TensorProto.FLOAT16)
    with_preprocessing(proto, preprocessing, "uint8-nhwc")
    np.testing.assert_allclose(run(proto, images), wanted.astype(np.float16), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_the_emulation_of_bf16_leaves_it_alone(name: str, images: NDArray[np.uint8]) -> None:
    """bf16 has eight bits: a level of grey is rounded away above 128, were the sums rounded on the way."""
    preprocessing = KINDS[name]
    proto = identity(preprocessing.channels, TensorProto.FLOAT)
    with_preprocessing(proto, preprocessing, "uint8-nhwc")
    assert np.array_equal(run(emulated(proto), images), run(proto, images))
