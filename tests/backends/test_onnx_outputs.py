"""The output of a graph from elsewhere: a softmax in it is not applied again, and features are no scores."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from foreign_graphs import FLAGS, MEAN, STD, Ending, Several, normalized, pixels, plain, softmax, written
from numpy.typing import NDArray
from torch import nn

from resnet_infer.backends.load import Model, open_model
from resnet_infer.data.source import Memory
from resnet_infer.errors import ArtifactError, BackendError, ResnetInferError, UsageError
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint, Overrides, load_checkpoint
from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.score import Member, score
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.protocols import Average, multi_scale, single_crop


@pytest.fixture(scope="module")
def net(random_net: Callable[..., ResNet]) -> ResNet:
    """With projections: what torch.onnx's older exporter makes of padded shortcuts is refused."""
    return random_net("resnet20-B", 10)


class Seen(nn.Module):
    """Its input, in another shape and back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(2).unsqueeze(3).squeeze(3).squeeze(2).flatten(1)


ENDS: dict[str, tuple[nn.Module, str]] = {
    "softmax": (nn.Softmax(1), "probabilities"),
    "softmax of the last dimension": (nn.Softmax(-1), "probabilities"),
    "log-softmax": (nn.LogSoftmax(1), "log-probabilities"),
    "softmax, then more": (
        nn.Sequential(nn.Softmax(1), Seen()),
        "probabilities",
    ),
    "none": (nn.Identity(), "logits"),
}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("opset", [11, 17])
def test_a_softmax_in_the_graph_is_not_applied_again(
    net: ResNet, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, opset: int
) -> None:
    end, kind = ENDS[name]
    logits = plain(written(net, tmp_path / "logits.onnx"), normalized(pixels(6)))
    path = written(Ending(net, end), tmp_path / "net.onnx", opset_version=opset)
    model = open_model(str(path), device="cpu", overrides=FLAGS)
    assert model.manifest.output == kind
    assert ("ends in softmax" in capsys.readouterr().err) == (kind != "logits")
    scores = model.backend.run(pixels(6), "pooled")[:, :, 0, 0]
    np.testing.assert_allclose(scores.softmax(1), softmax(logits), rtol=2e-5, atol=1e-7)
    twice = softmax(softmax(logits))
    assert np.abs(twice - softmax(logits)).max() > 0.1


def test_probabilities_of_nought_stay_nought(tmp_path: Path, random_net: Callable[..., ResNet]) -> None:
    net = random_net("resnet20-B", 10)
    with torch.no_grad():
        net.fc.bias[3] = -1000
    path = written(Ending(net, nn.Softmax(1)), tmp_path / "net.onnx")
    scores = open_model(str(path), device="cpu", overrides=FLAGS).backend.run(pixels(2), "pooled").flatten(1)
    assert torch.isfinite(scores).all()
    assert scores.softmax(1)[:, 3].max() < 1e-30


def dense_ending(net: ResNet, end: nn.Module, path: Path) -> Path:
    axes = {"image": {0: "n", 2: "h", 3: "w"}, "scores": {0: "n", 2: "y", 3: "x"}}
    return written(Ending(with_head(net, "dense"), end), path, dynamic_axes=axes)


@pytest.mark.parametrize("average", ["window-softmax", "map-logits"])
@pytest.mark.parametrize("end", ["softmax", "log-softmax", "none"])
def test_a_map_of_probabilities_is_averaged_as_its_logits_are_or_refused(
    net: ResNet, tmp_path: Path, picture: Callable[..., Any], end: str, average: Average
) -> None:
    """The oracle is NumPy on the map that plain ONNX Runtime gives for the logits."""
    path = dense_ending(net, ENDS[end][0], tmp_path / "net.onnx")
    source = Memory("one", [("0", picture(40, 40))])
    protocol = multi_scale((40,), mirror=False, average=average)
    model = open_model(str(path), device="cpu", overrides=FLAGS)
    if (end, average) == ("softmax", "map-logits"):
        with pytest.raises(UsageError, match=r"ends in a softmax.*--average window-softmax"):
            list(score([Member(model, (protocol,))], source))
        return
    x_BCHW = torch.from_numpy(picture(40, 40)).permute(2, 0, 1)[None]
    map_Khw = plain(dense_ending(net, nn.Identity(), tmp_path / "logits.onnx"), normalized(x_BCHW))[0]
    assert map_Khw.shape[1:] == (3, 3)
    windows = softmax(map_Khw, 0).mean((1, 2)) if average == "window-softmax" else softmax(map_Khw.mean((1, 2)), 0)
    (scored,) = score([Member(model, (protocol,))], source)
    assert scored.probs_PK is not None
    np.testing.assert_allclose(scored.probs_PK[0], windows, rtol=1e-4, atol=1e-7)


def test_scores_are_declared_where_the_graph_does_not_tell(net: ResNet, tmp_path: Path) -> None:
    class ByHand(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.softmax(1) * 1.0  # an operator behind the softmax

    path = str(written(Ending(net, ByHand()), tmp_path / "net.onnx", do_constant_folding=False))
    declared = open_model(path, device="cpu", overrides=replace(FLAGS, scores="probabilities"))
    expected = softmax(plain(written(net, tmp_path / "logits.onnx"), normalized(pixels(3))))
    np.testing.assert_allclose(declared.backend.run(pixels(3), "pooled")[:, :, 0, 0].softmax(1), expected, rtol=2e-5)
    logits = str(tmp_path / "logits.onnx")
    wrong = open_model(logits, device="cpu", overrides=replace(FLAGS, scores="probabilities"))
    with pytest.raises(BackendError, match=r"called probabilities and are none.*--scores logits"):
        wrong.backend.run(pixels(3), "pooled")


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (nn.Softmax(0), r"Softmax is over axis 0, of size 1, and not over the 10 classes"),
        (nn.Sigmoid(), r"ends in Sigmoid.*--scores logits"),
    ],
)
def test_ends_that_are_no_classifiers(net: ResNet, tmp_path: Path, end: nn.Module, says: str) -> None:
    path = str(written(Ending(net, end), tmp_path / "net.onnx"))
    with pytest.raises(ArtifactError, match=says):
        open_model(path, device="cpu", overrides=FLAGS)
    assert open_model(path, device="cpu", overrides=replace(FLAGS, scores="logits")).manifest.output == "logits"


def test_what_is_said_of_a_graph_is_said_of_no_checkpoint() -> None:
    with pytest.raises(UsageError, match="--scores and --output-name are for"):
        load_checkpoint("resnet20.cifar10", Overrides(scores="logits"))


def test_our_own_export_with_a_softmax_grafted_on_is_refused(net: ResNet, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    manifest = Manifest(spec=net.spec, preprocessing=Preprocessing(mean=MEAN, std=STD, resize=32, crop=32))
    export_onnx(Checkpoint(name="x", manifest=manifest, state_dict=net.state_dict()), path)
    proto = onnx.load(path)
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"]))
    proto.graph.output[0].name = "probabilities"
    onnx.save(proto, path)
    with pytest.raises(ArtifactError, match="ends in a softmax, and its manifest says that it gives logits"):
        open_model(str(path), device="cpu", overrides=Overrides(verify=False))


def test_a_map_of_one_behind_a_global_pool_is_the_pooled_head(net: ResNet, tmp_path: Path) -> None:
    """A 1x1 convolution for a classifier, as in files that came from Caffe: of any size one vector."""

    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.fc = net, nn.Conv2d(64, 10, 1)
            self.fc.weight.data, self.fc.bias = net.fc.weight.data[:, :, None, None], net.fc.bias

        def forward(self, x: torch.Tensor) -> Any:
            return self.fc(nn.functional.adaptive_avg_pool2d(self.net.features(x), 1)).softmax(1)

    path = str(written(Convolved(), tmp_path / "net.onnx"))
    model = open_model(path, device="cpu", overrides=FLAGS)
    assert (model.manifest.head, model.backend.info.heads, model.manifest.output) == (
        "pooled",
        ("pooled",),
        "probabilities",
    )
    logits = plain(written(net, tmp_path / "logits.onnx"), normalized(pixels(2, 48)))
    scores = model.backend.run(pixels(2, 48), "pooled")
    np.testing.assert_allclose(scores[:, :, 0, 0].softmax(1), softmax(logits), rtol=2e-4, atol=1e-6)
    dense = dense_ending(net, nn.Identity(), tmp_path / "dense.onnx")
    assert open_model(str(dense), device="cpu", overrides=FLAGS).manifest.head == "dense"


# several outputs


def of_several(path: Path, net: ResNet, names: list[str], *more: nn.Module) -> Path:
    return written(Several(net, *more), path, names)


@pytest.fixture
def logits(net: ResNet, tmp_path: Path) -> NDArray[Any]:
    return plain(written(net, tmp_path / "alone.onnx"), normalized(pixels(4)))


def run(path: Path, **said: Any) -> tuple[Model, NDArray[Any]]:
    model = open_model(str(path), device="cpu", overrides=replace(FLAGS, **said))
    return model, model.backend.run(pixels(4), "pooled")[:, :, 0, 0].numpy()


@pytest.mark.parametrize("labels", [None, Labels(names=tuple("abcdefghij"))])
def test_features_that_come_first_are_no_scores(
    net: ResNet, tmp_path: Path, logits: Any, labels: Labels | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = of_several(tmp_path / "net.onnx", net, ["features", "logits"])
    model, scores = run(path, labels=labels)
    np.testing.assert_allclose(scores, logits, rtol=1e-5, atol=1e-5)
    assert (model.manifest.output_name, model.manifest.spec.classes) == ("logits", 10)
    assert "scores are logits (batch, 10)" in (said := capsys.readouterr().err)
    assert "not features (batch, 64)" in said


def test_logits_are_taken_before_their_softmax(net: ResNet, tmp_path: Path, logits: Any) -> None:
    names = ["features", "logits", "probabilities"]
    path = of_several(tmp_path / "net.onnx", net, names, nn.Softmax(1))
    assert run(path)[0].manifest.output_name == "logits"
    model, scores = run(path, output_name="probabilities")
    assert model.manifest.output == "probabilities"
    np.testing.assert_allclose(softmax(scores), softmax(logits), rtol=2e-5, atol=1e-7)


def test_two_that_fit_are_asked_about_and_an_unknown_one_is_named(net: ResNet, tmp_path: Path, logits: Any) -> None:
    path = of_several(tmp_path / "net.onnx", net, ["features", "one", "two"], nn.Linear(10, 10))
    listed = r"features \(batch, 64\), one \(batch, 10\), two \(batch, 10\)"
    with pytest.raises(UsageError, match=rf"several outputs.*{listed}; say which with --output-name NAME"):
        run(path)
    np.testing.assert_allclose(run(path, output_name="one")[1], logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match=rf"no output 'three' of scores; it has {listed}"):
        run(path, output_name="three")
    labels = Labels(names=tuple(map(str, range(64))))
    with pytest.raises(ResnetInferError):  # 64 names choose the features, which no classifier gives
        run(path, labels=labels)


def test_scores_of_a_whole_pass_are_the_files_own(net: ResNet, tmp_path: Path, picture: Callable[..., Any]) -> None:
    path = of_several(tmp_path / "net.onnx", net, ["features", "probabilities"])
    source = Memory("three", [(str(seed), picture(32, 32, seed)) for seed in range(3)])
    model = open_model(str(path), device="cpu", overrides=FLAGS)
    scored = {one.index: one.probs_PK for one in score([Member(model, (single_crop(32, 32),))], source)}
    for seed in range(3):
        x_BCHW = torch.from_numpy(picture(32, 32, seed)).permute(2, 0, 1)[None]
        np.testing.assert_allclose(
            scored[seed], softmax(plain(path, normalized(x_BCHW), "probabilities")), rtol=1e-4, atol=1e-6
        )
