"""The network that is trained: its first weights, what it subtracts, and its form as a model that is scored.

Sources of the initialisation: He et al. 2015b (the paper's [13]) and Caffe's `msra` filler take fan-in, and zero
biases; torchvision takes fan-out, and PyTorch's default for the classifier.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from resnet_infer import __version__
from resnet_infer.backends.load import Model
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.evaluation.evaluate import evaluate
from resnet_infer.evaluation.rows import EvalRow
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.pipeline.loader import Crew
from resnet_infer.pipeline.loading import Loading
from resnet_infer.pipeline.score import Member
from resnet_infer.spec.architectures import ModelSpec
from resnet_infer.spec.labels import Labels
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing, Triple
from resnet_infer.spec.protocols import protocol_for
from resnet_infer.train.recipe import Recipe
from resnet_infer.train.stream import WEIGHTS, generator


def fresh(spec: ModelSpec, recipe: Recipe, mean_HWC: Tensor) -> ResNet:
    """Random weights, the same for the same seed, and the mean image if the recipe subtracts it per pixel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(recipe.seed, WEIGHTS, 0).integers(2**62)))
        net = ResNet(spec)
        if recipe.init == "fan-in":
            for module in net.modules():
                if isinstance(module, (nn.Conv2d, nn.Linear)):
                    nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
    if recipe.mean == "pixel":
        offset_HWC = mean_HWC - mean_HWC.mean((0, 1))
        net.input_offset = offset_HWC.permute(2, 0, 1).float().contiguous()
    return net


def preprocessing_of(mean_HWC: Tensor, recipe: Recipe) -> Preprocessing:
    """Channel means, no division, as the paper; resized for the test as the paper resized, 256 for 224."""
    red, green, blue = mean_HWC.mean((0, 1)).tolist()
    mean: Triple = (red, green, blue)
    resize = round(recipe.crop * 256 / 224) if recipe.loading == "stream" else recipe.crop
    return Preprocessing(mean=mean, std=(1.0, 1.0, 1.0), resize=resize, crop=recipe.crop)


def manifest_of(spec: ModelSpec, preprocessing: Preprocessing, labels: Labels, recipe: Recipe) -> Manifest:
    """What trained weights say of themselves."""
    return Manifest(
        spec=spec,
        preprocessing=preprocessing,
        labels=labels,
        source=f"trained by resnet-infer {__version__}",
        versions={"resnet-infer": __version__, "torch": torch.__version__},
        extra={"recipe": recipe.to_dict()},
    )


def test(
    net: ResNet,
    manifest: Manifest,
    crew: Crew,
    device: torch.device,
    workers: int | None,
    advance: Callable[[int], object],
) -> EvalRow:
    """The error of the weights as they are, in fp32, by the scoring path: what `resnet-infer eval` will say of them.

    It is of the crew's images; its worker processes are kept for the next test. `advance` is called with every number
    of images done.
    """
    weights = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
    checkpoint = Checkpoint(name=manifest.spec.name, manifest=manifest, state_dict=weights)
    model = Model(name=checkpoint.name, manifest=manifest, backend=TorchBackend(checkpoint, str(device)))
    protocol = protocol_for("single-crop", manifest.spec, manifest.preprocessing)
    (row,) = evaluate(
        [Member(model, (protocol,))], crew.source, crew=crew, advance=advance, loading=Loading(workers=workers)
    )
    model.backend.close()
    return row
