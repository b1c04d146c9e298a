"""The dense head against the pooled one and against windows cut by hand, and the three averages by formula.

Shapes: B images, C channels, H and W pixels or map positions, K classes, h and w windows.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from resnet_infer.model.heads import with_head
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.batching import reduce_map

# One network per stem: (sides at which the map is one window, a larger size, its map, its windows).
STEMS = {
    "imagenet": ("resnet18", 224, (260, 300), (9, 10), (3, 4)),
    "cifar": ("resnet20", 32, (37, 50), (10, 13), (3, 6)),
}


@pytest.fixture(scope="module", params=STEMS)
def stem(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def net(stem: str, random_net: Callable[..., ResNet]) -> ResNet:
    return random_net(STEMS[stem][0], classes=10)


@pytest.fixture(name="x_BCHW", scope="module")
def images(stem: str) -> Tensor:
    """Two images larger than the native size."""
    return torch.randn(2, 3, *STEMS[stem][2], generator=torch.Generator().manual_seed(0))


@pytest.fixture(name="map_BCHW", scope="module")
def feature_map(net: ResNet, x_BCHW: Tensor) -> Tensor:
    """Their last feature map."""
    with torch.inference_mode():
        return net.features(x_BCHW)


@pytest.fixture(name="dense_BKhw", scope="module")
def logit_map(net: ResNet, x_BCHW: Tensor) -> Tensor:
    """Their map of logits."""
    with torch.inference_mode():
        return with_head(net, "dense")(x_BCHW)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """To `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def trapezoid(side: int, window: int) -> Tensor:
    """Share of each position when every window of a line weighs the same: min(i+1, N-i, k, N-k+1) / (k(N-k+1))."""
    count = side - window + 1
    rises = [min(i + 1, side - i, window, count) for i in range(side)]
    return torch.tensor(rises, dtype=torch.float64) / (window * count)


@torch.inference_mode()
def test_both_heads_agree_at_the_native_size(stem: str, net: ResNet) -> None:
    side = STEMS[stem][1]
    x_BCHW = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    pooled_BK, dense_BKhw = with_head(net, "pooled")(x_BCHW), with_head(net, "dense")(x_BCHW)
    assert_close(dense_BKhw, pooled_BK[:, :, None, None])
    shares = [reduce_map(dense_BKhw, "window-softmax"), reduce_map(dense_BKhw, "map-logits")]
    for probs_BK in (*shares, reduce_map(pooled_BK[:, :, None, None], "gap")):
        torch.testing.assert_close(probs_BK, pooled_BK.softmax(1), rtol=0, atol=1e-5)


def test_maps_and_windows_are_of_the_foretold_size(
    stem: str, net: ResNet, map_BCHW: Tensor, dense_BKhw: Tensor
) -> None:
    _, _, size, map_size, windows = STEMS[stem]
    assert map_BCHW.shape == (2, net.spec.features, *map_size)
    assert map_size == (net.spec.map_size(size[0]), net.spec.map_size(size[1]))
    assert dense_BKhw.shape == (2, 10, *windows)


@torch.inference_mode()
def test_dense_is_the_pooled_classifier_on_every_window(net: ResNet, map_BCHW: Tensor, dense_BKhw: Tensor) -> None:
    side = net.spec.window
    for top, left in itertools.product(range(dense_BKhw.shape[2]), range(dense_BKhw.shape[3])):
        window_BCHW = map_BCHW[:, :, top : top + side, left : left + side]
        assert_close(dense_BKhw[:, :, top, left], net.fc(window_BCHW.mean((2, 3))))


@torch.inference_mode()
def test_pooled_is_the_classifier_on_every_position_averaged(net: ResNet, x_BCHW: Tensor, map_BCHW: Tensor) -> None:
    """The classifier is linear, so averaging before it or after it is one."""
    logits_BHWK = net.fc(map_BCHW.permute(0, 2, 3, 1))
    assert_close(with_head(net, "pooled")(x_BCHW), logits_BHWK.mean((1, 2)))


@pytest.mark.parametrize(
    ("side", "relative"), [(8, [0.571] + [1.143] * 3), (12, [0.286, 0.571, 0.857, 1.143, 1.429, 1.714])]
)
def test_the_trapezoid_is_the_known_one(side: int, relative: list[float]) -> None:
    """N times the weights, one half of them: published for a 7-wide window."""
    weights = trapezoid(side, 7)
    assert float(weights.sum()) == pytest.approx(1)
    assert (side * weights[: side // 2]).tolist() == pytest.approx(relative, abs=5e-4)
    assert torch.equal(weights, weights.flip(0))


@torch.inference_mode()
def test_map_logits_weighs_positions_by_a_trapezoid(net: ResNet, map_BCHW: Tensor, dense_BKhw: Tensor) -> None:
    rows_H, columns_W = (trapezoid(side, net.spec.window) for side in map_BCHW.shape[2:])
    pooled_BC = torch.einsum("bchw,h,w->bc", map_BCHW.double(), rows_H, columns_W)
    logits_BK = pooled_BC @ net.fc.weight.double().T + net.fc.bias.double()
    assert_close(dense_BKhw.double().mean((2, 3)), logits_BK)
    torch.testing.assert_close(reduce_map(dense_BKhw, "map-logits").double(), logits_BK.softmax(1), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_window_softmax_averages_the_probabilities_of_the_windows(net: ResNet, dense_BKhw: Tensor) -> None:
    windows = [dense_BKhw[:, :, row, column] for row, column in itertools.product(*map(range, dense_BKhw.shape[2:]))]
    expected_BK = torch.stack([torch.exp(w_BK) / torch.exp(w_BK).sum(1, keepdim=True) for w_BK in windows]).mean(0)
    torch.testing.assert_close(reduce_map(dense_BKhw, "window-softmax"), expected_BK, rtol=0, atol=1e-6)


def test_the_averages_differ_on_a_larger_map(net: ResNet, x_BCHW: Tensor, dense_BKhw: Tensor) -> None:
    with torch.inference_mode():
        pooled_BK11 = with_head(net, "pooled")(x_BCHW)[:, :, None, None]
    probs = [
        reduce_map(dense_BKhw, "window-softmax"),
        reduce_map(dense_BKhw, "map-logits"),
        reduce_map(pooled_BK11, "gap"),
    ]
    for one_BK, other_BK in itertools.combinations(probs, 2):
        assert (one_BK - other_BK).abs().max() > 1e-4
    for probs_BK in probs:
        torch.testing.assert_close(probs_BK.sum(1), torch.ones(2))


def test_heads_share_their_weights(net: ResNet) -> None:
    pooled, dense = with_head(net, "pooled"), with_head(net, "dense")
    assert {p.data_ptr() for p in pooled.parameters()} == {p.data_ptr() for p in dense.parameters()}
    assert {p.data_ptr() for p in net.parameters()} == {p.data_ptr() for p in dense.parameters()}
