"""Batch norm folded into the convolutions before it: the same function in evaluation, with half the operations.

In evaluation mode batch norm is an affine map per channel, so W' = W * gamma / sqrt(var + eps) and
b' = beta - mean * gamma / sqrt(var + eps) (Jacob et al. 2018, section 3.2). Folding is done in fp32, before a cast to
a narrower type: the other way round would round twice.
"""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_infer.model.resnet import ResNet


def fold_batch_norm(net: ResNet) -> ResNet:
    """A copy of an fp32 network in evaluation mode whose convolutions have the batch norms in them."""
    folded = copy.deepcopy(net)
    for module in list(folded.modules()):
        names = [name for name, _ in module.named_children()]
        pairs = [(name, name.replace("conv", "bn")) for name in names if name.startswith("conv")]
        if isinstance(module, nn.Sequential) and names == ["0", "1"]:  # a projection shortcut
            pairs = [("0", "1")]
        for conv_name, norm_name in pairs:
            conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return folded
