"""Constants of ONNX graphs: in the file, or in one beside it, and no larger than what is there."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from small_graphs import FLAGS, called_resnet20, model, refused

from resnet_infer.backends.load import open_model


def claiming(**fields: Any) -> onnx.ModelProto:
    proto = model()
    tensor = proto.graph.initializer[0]
    for name, value in fields.items():
        if isinstance(value, list):
            del getattr(tensor, name)[:]
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    return proto


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dims": [10**6, 10**3]}, "claims 4,000,000,000 bytes and has 120"),
        ({"dims": [10**9, 10**9]}, "over 4,294,967,296 bytes"),
        ({"dims": [2**62, 2**62, 2**62]}, "over 4,294,967,296 bytes"),
        ({"dims": [-3, -10]}, "a negative size"),
        ({"data_type": TensorProto.STRING}, "no type that weights have"),
        ({"data_type": 99}, "no type that weights have"),
        ({"raw_data": b""}, "claims 120 bytes and has 0"),
        ({"raw_data": b"", "int32_data": [1] * 3}, "claims 120 bytes and has 12"),
    ],
)
def test_constants_claim_what_they_hold(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    assert says in refused(claiming(**fields), tmp_path / "net.onnx")


def beside(folder: Path, location: str, **more: str) -> onnx.ModelProto:
    proto = claiming(raw_data=b"", data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": location} | more).items():
        proto.graph.initializer[0].external_data.add(key=key, value=value)
    return proto


def test_weights_in_a_file_beside_the_graph_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "weights").write_bytes(np.ones((3, 10), np.float32).tobytes())
    proto = called_resnet20(beside(folder, "weights", length="120"))
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    scores = open_model(str(folder / "net.onnx"), device="cpu", overrides=FLAGS).backend.run(
        torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), "pooled"
    )
    assert scores.flatten().tolist() == pytest.approx([6.0] * 10)


@pytest.mark.parametrize(
    ("location", "more", "says"),
    [
        ("../secret", {}, "must be in a file beside the graph"),
        ("sub/../../secret", {}, "must be in a file beside the graph"),
        ("..\\secret", {}, "must be in a file beside the graph"),
        ("{outside}", {}, "must be in a file beside the graph"),
        ("", {}, "must be in a file beside the graph"),
        ("link", {}, "a link to a file elsewhere"),
        ("folder/secret", {}, "a link to a file elsewhere"),
        ("absent", {}, "not beside the graph; copy it there"),
        ("*/_ORT_MEM_ADDR_/*", {"offset": "4096"}, "not beside the graph; copy it there"),
        ("weights", {"offset": "-1"}, "not a number of bytes"),
        ("weights", {"offset": "9" * 5000}, "not a number of bytes"),
        ("weights", {"length": "121"}, "ends at 120 bytes, before 121"),
        ("weights", {"offset": "500"}, "ends at 120 bytes"),
        ("weights", {"length": "119"}, "claims 120 bytes and has 119"),
    ],
)
def test_weights_elsewhere_are_not_read(tmp_path: Path, location: str, more: dict[str, str], says: str) -> None:
    folder, outside = tmp_path / "net", tmp_path / "secret"
    (folder / "sub").mkdir(parents=True)
    for path in (outside, folder / "weights"):
        path.write_bytes(bytes(120))
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    assert says in refused(beside(folder, location.format(outside=outside), **more), folder / "net.onnx")


def test_weights_do_not_share_bytes(tmp_path: Path) -> None:
    """A thousand layers of the same gigabyte would be a terabyte."""
    proto = beside(tmp_path, "weights")
    proto.graph.initializer.append(proto.graph.initializer[0])
    proto.graph.initializer[1].name = "again"
    (tmp_path / "weights").write_bytes(bytes(120))
    assert "weights share bytes of weights" in refused(proto, tmp_path / "net.onnx")
