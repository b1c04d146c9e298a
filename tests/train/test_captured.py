"""The captured step is the eager one: in a CUDA graph on a GPU, and in recorded operations without one."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import recorded
import torch
from torch import Tensor

from resnet_infer.backends.base import Normalize
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.train import network
from resnet_infer.train.images import Batch, InMemory
from resnet_infer.train.recipe import RECIPES, Recipe
from resnet_infer.train.step import CapturedStep, EagerStep, Step, momentum_of, restore_momentum, sgd
from resnet_infer.train.stream import Stream

SPEC = replace(spec_from_name("resnet20"), name="resnet8", depths=(1, 1, 1))
RATES = (0.125, 0.125, 0.125, 0.03125, 0.03125, 0.0078125)
"""Of powers of two: a graph's learning rate is a float32, an eager step's a double."""
RECIPE = replace(RECIPES["cifar10"], precision="fp32", mean="channel", batch=8)
RECIPES_HERE = {
    "plain": RECIPE,
    "colour": replace(RECIPE, colour=0.1),
    "decay of weights alone": replace(RECIPE, decay="weights", colour=0.1),
    "no momentum": replace(RECIPE, momentum=0.0),
    "bf16": replace(RECIPE, precision="bf16", colour=0.1),
}
cases = pytest.mark.parametrize("recipe", RECIPES_HERE.values(), ids=RECIPES_HERE)


class Side:
    """A network, its optimizer and its step, the same for the same recipe; `captured` if it is to be one."""

    def __init__(self, recipe: Recipe, device: torch.device, captured: bool) -> None:
        images_NHWC = torch.randint(256, (24, 32, 32, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        self.images = InMemory(images_NHWC, [i % 10 for i in range(24)], Stream(24, 8, 0), recipe, device)
        mean_HWC = self.images.mean_image()
        net = network.fresh(SPEC, recipe, mean_HWC)
        self.net: ResNet = net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = sgd(self.net, recipe)
        eager = EagerStep(
            self.net, self.optimizer, Normalize(network.preprocessing_of(mean_HWC, recipe), device), recipe
        )
        self.step: Step = CapturedStep(eager) if captured else eager

    def batches(self) -> Iterator[Batch]:
        """A batch and its mirror by turns, so that a step which kept the last one's would be seen."""
        for x_BCHW, classes_B, normal_B3 in self.images.batches(0, len(RATES) // 2):
            yield x_BCHW, classes_B, normal_B3
            yield x_BCHW.flip(3), classes_B.flip(0), -normal_B3

    def train(self) -> Tensor:
        """(N, 2): loss and error of every step."""
        steps = zip(self.batches(), RATES, strict=True)
        return torch.stack([torch.stack(self.step(batch, lr)) for batch, lr in steps]).cpu()

    def state(self) -> dict[str, Tensor]:
        """Weights, statistics and momentum."""
        momentum = momentum_of(self.net, self.optimizer)
        return {**self.net.state_dict(), **{f"momentum of {name}": buffer for name, buffer in momentum.items()}}


def assert_same(captured: Side, eager: Side, *, rtol: float, atol: float) -> None:
    """After the same batches, the two have the same results and the same state."""
    torch.testing.assert_close(captured.train(), eager.train(), rtol=rtol, atol=atol)
    ours, theirs = captured.state(), eager.state()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture
def recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.install(monkeypatch)


@cases
@pytest.mark.usefixtures("recorded_graphs")
def test_a_recorded_step_is_the_eager_step(recipe: Recipe) -> None:
    cpu = torch.device("cpu")
    assert_same(Side(recipe, cpu, True), Side(recipe, cpu, False), rtol=0, atol=0)


@pytest.mark.usefixtures("recorded_graphs")
def test_a_recorded_step_goes_on_from_a_state() -> None:
    cpu = torch.device("cpu")
    captured, eager, before = (Side(RECIPES_HERE["colour"], cpu, captured) for captured in (True, False, False))
    before.train()
    for side in (captured, eager):
        side.net.load_state_dict(before.net.state_dict())
        restore_momentum(side.net, side.optimizer, momentum_of(before.net, before.optimizer), needed=True)
    assert_same(captured, eager, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@cases
def test_a_captured_step_is_the_eager_step(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    loose = 1e-2 if recipe.precision == "bf16" else 1e-4
    cuda = torch.device("cuda", torch.cuda.device_count() - 1)  # where there are several, not the current one
    assert_same(Side(recipe, cuda, True), Side(recipe, cuda, False), rtol=loose, atol=loose)
