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
from resnet_infer.spec.architectures import ModelSpec


def fold_batch_norm(net: ResNet) -> ResNet:
    """A copy of an fp32 network in evaluation mode whose convolutions have the batch norms in them."""
    folded = copy.deepcopy(net)
    pairs = [(conv.name, conv.norm) for conv in net.spec.convs() if conv.norm]
    if _only_activated(net.spec):
        pairs.append(("conv1", "layer1.0.bn1"))
    for conv_name, norm_name in pairs:
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            _put(folded, conv_name, fuse_conv_bn_eval(conv, norm))
            _put(folded, norm_name, nn.Identity())
    return folded


def _only_activated(spec: ModelSpec) -> bool:
    """Whether nothing reads the output of a stem without norm but the first block's norm."""
    _, first = next(spec.blocks())
    plain = spec.preactivation == "activated" and spec.stem != "deep" and not spec.stem_norm and spec.pooling == "none"
    return plain and "downsample" in first[-1].name


def _put(net: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(net.get_submodule(parent), own, module)
