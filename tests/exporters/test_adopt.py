"""ONNX files of other tools, adopted: whatever their layout and type, they score as plain ONNX Runtime does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from resnet_infer.backends.load import open_model
from resnet_infer.backends.onnx_file import load_graph, stored_manifest
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.data.source import Memory
from resnet_infer.errors import ArtifactError, GateError, UsageError
from resnet_infer.exporters.adopt import adopt
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint, Overrides
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.labels import CIFAR10_NAMES, Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import single_crop
from resnet_infer.verify import verify

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
FLAGS = Overrides(mean=MEAN, std=STD)
SIDE = 32


@pytest.fixture(scope="module")
def net(random_net: Callable[..., ResNet]) -> ResNet:
    return random_net("resnet20-B")


@pytest.fixture(scope="module")
def like(net: ResNet) -> Checkpoint:
    preprocessing = Preprocessing(mean=MEAN, std=STD, resize=40, crop=SIDE)
    manifest = Manifest(spec=net.spec, preprocessing=preprocessing, labels=Labels(names=CIFAR10_NAMES))
    return Checkpoint(name="net.pth", manifest=manifest, state_dict=net.state_dict())


class Takes(nn.Module):
    """A network that takes its input otherwise: channels last, bytes, or both, and normalises bytes itself."""

    def __init__(self, net: nn.Module, *, last: bool, of_bytes: bool) -> None:
        super().__init__()
        self.net, self.last, self.of_bytes = net, last, of_bytes
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1) * 255)

    def forward(self, x: torch.Tensor) -> Any:
        x = x.permute(0, 3, 1, 2) if self.last else x
        return self.net((x.float() - self.mean) / self.std if self.of_bytes else x)


FORMS = {
    "normalized": (False, False),
    "normalized-nhwc": (True, False),
    "uint8-nchw": (False, True),
    "uint8-nhwc": (True, True),
}


def written(net: nn.Module, path: Path, form: str = "normalized", batch: int = 0, side: int = 0) -> Path:
    """As torch.onnx's older exporter writes it; sizes of 0 are free."""
    last, of_bytes = FORMS[form]
    x = torch.zeros(batch or 2, 3, side or SIDE, side or SIDE, dtype=torch.uint8 if of_bytes else torch.float32)
    axes = {} if batch else {0: "n"}
    axes |= {} if side else {(1 if last else 2): "h", (2 if last else 3): "w"}
    torch.onnx.export(
        Takes(net, last=last, of_bytes=of_bytes).eval(),
        (x.permute(0, 2, 3, 1).contiguous() if last else x,),
        str(path),
        dynamo=False,
        input_names=["image"],
        output_names=["scores"],
        opset_version=17,
        dynamic_axes={"image": axes, "scores": {} if batch else {0: "n"}},
    )
    return path


def pixels(batch: int, side: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def expected(net: nn.Module, x_BCHW: torch.Tensor) -> NDArray[Any]:
    mean, std = (torch.tensor(triple).view(3, 1, 1) for triple in (MEAN, STD))
    scores: NDArray[Any] = net((x_BCHW / 255 - mean) / std).numpy()
    return scores


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sides", ["free", "fixed"])
def test_every_layout_and_type_is_read_off_the_graph_and_kept(
    net: ResNet, like: Checkpoint, tmp_path: Path, form: str, sides: str
) -> None:
    path = written(net, tmp_path / "net.onnx", form, side=SIDE if sides == "fixed" else 0)
    flags = FLAGS if form.startswith("normalized") else Overrides()
    made = adopt(path, tmp_path / "flags.onnx", flags)
    assert (made.input, made.spec.name, made.precision, made.head) == (form, "resnet20-B", "fp32", "pooled")
    adopt(path, tmp_path / "like.onnx", Overrides(), like=like)
    for name in ("flags", "like"):
        model = open_model(str(tmp_path / f"{name}.onnx"), device="cpu")
        actual = model.backend.run(pixels(5), "pooled")[:, :, 0, 0]
        np.testing.assert_allclose(actual, expected(net, pixels(5)), rtol=1e-4, atol=1e-4)
        assert verify(tmp_path / f"{name}.onnx").problem == ""
    kept = open_model(str(tmp_path / "like.onnx"), device="cpu").manifest
    assert (kept.preprocessing, kept.labels) == (like.manifest.preprocessing, like.manifest.labels)
    assert 0 < kept.parity["relative_diff"] < 1e-4
    assert stored_manifest(load_graph(path), "") is None  # the file itself is left as it is


def test_channels_last_of_open_sizes_are_seen_by_what_reads_them(net: ResNet, tmp_path: Path) -> None:
    path = written(net, tmp_path / "net.onnx", "normalized-nhwc")
    proto = onnx.load(path)
    for dim in proto.graph.input[0].type.tensor_type.shape.dim:
        dim.dim_param = dim.dim_param or "c"
    onnx.save(proto, path)
    assert adopt(path, tmp_path / "out.onnx", FLAGS).input == "normalized-nhwc"
    actual = open_model(str(tmp_path / "out.onnx"), device="cpu").backend.run(pixels(2), "pooled")
    np.testing.assert_allclose(actual[:, :, 0, 0], expected(net, pixels(2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_static_batch_of_any_size_scores_all_images(
    net: ResNet, tmp_path: Path, batch: int, picture: Callable[..., Any]
) -> None:
    path = written(net, tmp_path / "net.onnx", batch=batch, side=SIDE)
    adopt(path, tmp_path / "out.onnx", FLAGS)
    source = Memory("five", [(str(seed), picture(SIDE, SIDE, seed)) for seed in range(5)])
    model = open_model(str(tmp_path / "out.onnx"), device="cpu")
    assert model.backend.shapes[0].max[0] == batch
    found = {one.index: one.probs_PK for one in score([Member(model, (single_crop(SIDE, SIDE),))], source)}
    for seed in range(5):
        x_BCHW = torch.from_numpy(picture(SIDE, SIDE, seed)).permute(2, 0, 1)[None]
        wanted = torch.from_numpy(expected(net, x_BCHW)).softmax(1)
        torch.testing.assert_close(found[seed], wanted, rtol=1e-4, atol=1e-5)


def test_sizes_come_from_the_flags_or_the_graph(net: ResNet, tmp_path: Path) -> None:
    fixed = written(net, tmp_path / "fixed.onnx", side=48)
    made = adopt(fixed, tmp_path / "a.onnx", FLAGS)
    assert (made.preprocessing.resize, made.preprocessing.crop) == (48, 48)
    made = adopt(fixed, tmp_path / "b.onnx", FLAGS, resize=56)
    assert (made.preprocessing.resize, made.preprocessing.crop) == (56, 48)
    with pytest.raises(UsageError, match=r"takes 48x48 pixels only; --crop 32 cannot change it"):
        adopt(fixed, tmp_path / "c.onnx", FLAGS, crop=32)
    free = written(net, tmp_path / "free.onnx")
    made = adopt(free, tmp_path / "d.onnx", FLAGS, crop=40)
    assert (made.preprocessing.resize, made.preprocessing.crop) == (40, 40)


# like a checkpoint


def test_other_weights_or_another_input_are_refused(
    net: ResNet, like: Checkpoint, random_net: Callable[..., ResNet], tmp_path: Path
) -> None:
    path, out = written(net, tmp_path / "net.onnx"), tmp_path / "out.onnx"
    out.write_bytes(b"what was here before")
    changed = {key: value.clone() for key, value in net.state_dict().items()}
    changed["fc.weight"] = changed["fc.weight"].roll(1, 0)
    with pytest.raises(GateError, match=r"out\.onnx: not written: its scores are not those of net\.pth") as caught:
        adopt(path, out, Overrides(), like=replace(like, state_dict=changed))
    assert caught.value.exit_code == 3
    swapped = replace(like.manifest.preprocessing, mean=MEAN[::-1])
    with pytest.raises(GateError, match="takes another input than the checkpoint's preprocessing"):
        adopt(
            written(net, tmp_path / "bytes.onnx", "uint8-nhwc"),
            out,
            Overrides(),
            like=replace(like, manifest=replace(like.manifest, preprocessing=swapped)),
        )
    other = random_net("resnet32-B")
    larger = Checkpoint(name="x", manifest=replace(like.manifest, spec=other.spec), state_dict=other.state_dict())
    says = r"--like, a resnet32-B, does not fit: the graph has 22 weighted layers .* those of resnet20-B"
    with pytest.raises(UsageError, match=says):
        adopt(path, out, Overrides(), like=larger)
    with pytest.raises(UsageError, match="--mean and --like contradict each other"):
        adopt(path, out, FLAGS, like=like)
    assert out.read_bytes() == b"what was here before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bytes.onnx", "net.onnx", "out.onnx"]


@pytest.mark.parametrize(("end", "kind"), [(nn.Softmax(1), "probabilities"), (nn.LogSoftmax(1), "log-probabilities")])
def test_a_softmax_is_compared_with_that_of_the_checkpoint(
    net: ResNet, like: Checkpoint, tmp_path: Path, end: nn.Module, kind: str
) -> None:
    path = written(nn.Sequential(net, end), tmp_path / "net.onnx")
    made = adopt(path, tmp_path / "out.onnx", Overrides(), like=like)
    assert (made.output, made.parity["top1_agreement"]) == (kind, 1)
    changed = {key: value.clone() for key, value in net.state_dict().items()}
    changed["fc.bias"][2] += 0.5
    with pytest.raises(GateError, match="not those of"):
        adopt(path, tmp_path / "b.onnx", Overrides(), like=replace(like, state_dict=changed))


def test_a_map_is_compared_with_the_checkpoints_dense_head(net: ResNet, like: Checkpoint, tmp_path: Path) -> None:
    made = adopt(written(with_head(net, "dense"), tmp_path / "net.onnx"), tmp_path / "out.onnx", Overrides(), like=like)
    assert made.head == "dense"
    reference = TorchBackend(like, "cpu").run(pixels(2, 40), "dense")
    actual = open_model(str(tmp_path / "out.onnx"), device="cpu").backend.run(pixels(2, 40), "dense")
    assert actual.shape == (2, 10, 3, 3)
    torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-4)


# files


def test_weights_beside_the_graph_are_taken_into_the_copy(net: ResNet, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    proto = onnx.load(written(net, tmp_path / "whole.onnx"))
    onnx.save(proto, folder / "net.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert (folder / "weights").stat().st_size > 10**6
    adopt(folder / "net.onnx", tmp_path / "out.onnx", FLAGS)
    (folder / "weights").unlink()
    actual = open_model(str(tmp_path / "out.onnx"), device="cpu").backend.run(pixels(2), "pooled")
    np.testing.assert_allclose(actual[:, :, 0, 0], expected(net, pixels(2)), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_adopted_is_said(net: ResNet, like: Checkpoint, tmp_path: Path) -> None:
    path = written(net, tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match="give --mean and --std"):
        adopt(path, tmp_path / "out.onnx", Overrides())
    with pytest.raises(UsageError, match=r"out\.bin: the output's name must end in \.onnx"):
        adopt(path, tmp_path / "out.bin", FLAGS)
    export_onnx(like, tmp_path / "ours.onnx")
    with pytest.raises(UsageError, match=r"has a manifest already \(resnet20-B, net\.pth\)"):
        adopt(tmp_path / "ours.onnx", tmp_path / "out.onnx", FLAGS)
    with pytest.raises(UsageError, match="normalises inside its graph"):
        adopt(written(net, tmp_path / "bytes.onnx", "uint8-nchw"), tmp_path / "out.onnx", FLAGS)
    assert not (tmp_path / "out.onnx").exists()
