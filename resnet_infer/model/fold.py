"""Batch norm folded into the convolutions before it: the same function in evaluation, with half the operations.

In evaluation mode batch norm is an affine map per channel, so W' = W * gamma / sqrt(var + eps) and
b' = beta - mean * gamma / sqrt(var + eps) (Jacob et al. 2018, section 3.2). Folding is done in fp32, before a cast to
a narrower type: the other way round would round twice. Group norm depends on the image and stays, and so does what
comes before a convolution in a pre-activated block, with an activation between.
"""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_infer.model.resnet import ResNet


def fold_batch_norm(net: ResNet) -> ResNet:
    """A copy of an fp32 network in evaluation mode whose convolutions have the batch norms in them."""
    folded = copy.deepcopy(net)
    for found in net.spec.convs():
        if not found.norm:
            continue
        conv, norm = folded.get_submodule(found.name), folded.get_submodule(found.norm)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            _put(folded, found.name, fuse_conv_bn_eval(conv, norm))
            _put(folded, found.norm, nn.Identity())
    return folded


def _put(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, module)
