"""Run by test_fused.py with Triton's interpreter, which has to be on before the kernels are imported."""

import torch
import torch.nn.functional as F

from resnet_infer.backends.stem_kernels import max_pool, square_weight, squares


def main() -> None:
    """Every layout of some sizes, odd ones too, against PyTorch's convolution and pooling."""
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 7, 7)
    scale, shift = torch.tensor([0.01, 0.02, 0.015]), torch.tensor([-1.0, -2.0, -1.5])
    stems = pools = 0
    for height, width in ((32, 32), (33, 31), (40, 45)):
        planar = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        for x_BCHW in (planar, planar.contiguous(memory_format=torch.channels_last)):
            normalised = x_BCHW * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)
            expected = F.conv2d(normalised, weight, None, 2, 3)
            actual = F.conv2d(squares(x_BCHW, scale, shift, torch.float32), square_weight(weight))
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)
            stems += 1
            assert torch.equal(max_pool(expected), F.max_pool2d(expected, 3, 2, 1))
            pools += 1
    print(f"{stems} stems {pools} pools")


main()
