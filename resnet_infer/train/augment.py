"""The paper's augmentation: scale, padding, crop, mirror, colour; random numbers come from outside.

Sources: section 4.2 (pad 4, crop 32, mirror), section 3.4 (shorter side in [256, 480], crop 224, mirror, colour).
Colour is Krizhevsky et al. 2012 section 4.1 with the principal components that fb.resnet.torch computed on ImageNet's
training set; each is scaled by its eigenvalue times N(0, 0.1), added to RGB in [0, 1].

Shapes: B images, H and W pixels, C is 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from resnet_infer.spec.protocols import shorter_side_to
from resnet_infer.train.recipe import Recipe

EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Rows are R, G and B; columns are components."""


def augment_batch(x_BCHW: Tensor, uniform_B4: Tensor, recipe: Recipe) -> Tensor:
    """Images of one size to the network's input, all at once, on their device: uint8 (B, 3, crop, crop).

    The scale is one for the batch, its first image's: images of several sizes make no batch.
    """
    if recipe.scale_max:
        height, width = x_BCHW.shape[2:]
        size = shorter_side_to(scale_of(float(uniform_B4[0, 3]), recipe), height, width)
        x_BCHW = resize(x_BCHW, list(size), antialias=True)
    x_BCHW = F.pad(x_BCHW, (recipe.pad,) * 4)
    tops_B = offsets(uniform_B4[:, 0], x_BCHW.shape[2] - recipe.crop)
    lefts_B = offsets(uniform_B4[:, 1], x_BCHW.shape[3] - recipe.crop)
    mirrored_B = (uniform_B4[:, 2] < 0.5) & recipe.mirror
    return crops(x_BCHW, tops_B, lefts_B, mirrored_B, recipe.crop)


def augment_image(x_CHW: Tensor, uniform_4: Tensor, recipe: Recipe) -> Tensor:
    """One image of any size to the network's input: uint8 (3, crop, crop)."""
    if recipe.scale_max:
        size = shorter_side_to(scale_of(float(uniform_4[3]), recipe), *x_CHW.shape[1:])
        x_CHW = resize(x_CHW, list(size), antialias=True)
    x_CHW = F.pad(x_CHW, (recipe.pad,) * 4)
    top = int(offsets(uniform_4[0], x_CHW.shape[1] - recipe.crop))
    left = int(offsets(uniform_4[1], x_CHW.shape[2] - recipe.crop))
    x_CHW = x_CHW[:, top : top + recipe.crop, left : left + recipe.crop]
    return x_CHW.flip(2) if recipe.mirror and uniform_4[2] < 0.5 else x_CHW


def scale_of(uniform: float, recipe: Recipe) -> int:
    """A shorter side in pixels, every one from `scale_min` to `scale_max` as likely."""
    return recipe.scale_min + int(uniform * (recipe.scale_max - recipe.scale_min + 1))


def offsets(uniform: Tensor, spare: int) -> Tensor:
    """Where crops begin, int64, every one from 0 to `spare` as likely."""
    return (uniform * (spare + 1)).long().clamp_(max=spare)  # float32 may round up to spare + 1


def crops(x_BCHW: Tensor, tops_B: Tensor, lefts_B: Tensor, mirrored_B: Tensor, side: int) -> Tensor:
    """A square of every image, mirrored where asked, by one gathering; channels innermost in memory."""
    ahead = torch.arange(side, device=x_BCHW.device)
    rows_BH = tops_B[:, None] + ahead
    columns_BW = lefts_B[:, None] + torch.where(mirrored_B[:, None], side - 1 - ahead, ahead)
    images_B = torch.arange(len(x_BCHW), device=x_BCHW.device)
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)
    return x_BHWC[images_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)


def colour_basis(std: float) -> Tensor:
    """(3, 3), float32: a component a row, R, G and B across, scaled by its eigenvalue and a standard deviation.

    `normal_B3 @ basis_33` is what to add to every pixel of each image, in RGB of [0, 1].
    """
    components_33 = torch.tensor(EIGENVECTORS, dtype=torch.float64).T
    return (components_33 * torch.tensor(EIGENVALUES, dtype=torch.float64)[:, None] * std).float()
