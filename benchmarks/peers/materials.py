"""What all sides read: photos in class folders, weights, and ONNX files, in one folder and made once.

Weights are random but seeded, in torchvision's names, which timm's networks and our loader share. Batch norms have seen
the photos, and the classifier knows their classes by the mean of the features, every other pair of them the wrong way
round: so best classes are clear, differ between photos, and both right and wrong answers are counted.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from resnet_infer.backends.base import Normalize
from resnet_infer.data.open import open_source
from resnet_infer.data.samples import Sample
from resnet_infer.data.source import Source
from resnet_infer.errors import DataError, UsageError
from resnet_infer.model.checkpoints import Checkpoint, Overrides, load_checkpoint
from resnet_infer.pipeline.loader import load
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.labels import imagenet1k
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnet_infer.spec.protocols import single_crop

BATCH = 8
"""Photos in the batch of the contests without files; what the CPU targets are stated for."""
FITTED = 64
"""Photos at most that the weights are made from."""
CALIBRATION = 64
"""Photos for int8 ranges; half of them are held out to judge the ranges by."""
LAST_NORM = {"resnet18": "bn2", "resnet50": "bn3"}
"""The last batch norm of a block."""
RESIDUAL_GAIN = 0.2
"""Its scale. With 1, random blocks drown what they are given, and int8 then says little of what fp32 says."""
OVERRIDES = Overrides(mean=IMAGENET_MEAN, std=IMAGENET_STD)


def whole_batches(images: int | None, usual: int) -> int:
    """The images in one timing of a contest without files: the usual, or about as many as asked for."""
    return usual if images is None else max(BATCH, images // BATCH * BATCH)


def photos(folder: Path, images: int) -> Path:
    """Where `images` photos lie, one folder a synset."""
    return folder / f"photos-{images}"


def put_photos(source: Source, folder: Path, images: int) -> None:
    """Write photos, evenly chosen, or several times over where there are fewer than `images`.

    Raises DataError if a photo's synset is not known, or all are of one.
    """
    synsets = [synset_of(sample) for sample in source.samples]
    if len(set(synsets)) < 2:
        raise DataError(f"{source.name}: photos of at least two classes are needed")
    count = len(source.samples)
    for number in range(images):
        at = number * count // images if images < count else number % count
        sample, synset = source.samples[at], synsets[at]
        data = source.read(sample)
        if not isinstance(data, bytes):
            raise DataError(f"{source.name}: holds pixels; the loops compared read encoded files")
        path = photos(folder, images) / synset / f"{number // count}-{number:05}-{PurePosixPath(sample.name).name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def synset_of(sample: Sample) -> str:
    """The photo's ImageNet class: its folder, or what its name begins with; raises DataError."""
    known = set(imagenet1k().ids)
    begins = re.match(r"n\d{8}", PurePosixPath(sample.name).name)
    for synset in (sample.label, begins.group() if begins else None):
        if synset in known:
            return str(synset)
    raise DataError(f"{sample.name}: no ImageNet synset in its folder or at the start of its name, as n01440764_x.jpg")


def class_map() -> dict[str, int]:
    """Class index of every synset."""
    return {synset: index for index, synset in enumerate(imagenet1k().ids)}


def tiles(folder: Path) -> Tensor:
    """BATCH photos' centre crops, uint8, as the contests without files feed them."""
    return torch.from_numpy(np.load(folder / "tiles.npy"))


def normalized(folder: Path, batch: int = BATCH) -> Tensor:
    """The same as every network takes them, float32 and contiguous, repeated to a batch."""
    tiles_BCHW = tiles(folder).permute(0, 3, 1, 2)
    x_BCHW = Normalize(Preprocessing(), "cpu")(tiles_BCHW)
    return x_BCHW.repeat(-(-batch // BATCH), 1, 1, 1)[:batch].contiguous()


def checkpoint(folder: Path, arch: str) -> Checkpoint:
    """The shared weights, as our loader reads them."""
    return load_checkpoint(str(folder / f"{arch}.pth"), OVERRIDES)


def make_tiles(source: Source, folder: Path) -> None:
    """Centre crops of the first photos."""
    chosen = [index % len(source.samples) for index in range(BATCH)]
    made = [image.tiles[0].numpy() for image in load(source, [single_crop()], chosen, workers=0)]
    np.save(folder / "tiles.npy", np.stack(made))


@torch.inference_mode()
def make_weights(arch: str, source: Source, folder: Path) -> None:
    """Seeded random weights whose answers differ from photo to photo."""
    count = min(FITTED, len(source.samples))
    images = load(source, [single_crop()], range(count), workers=0)
    x_BCHW = torch.stack([image.tiles[0] for image in images]).permute(0, 3, 1, 2)
    x_BCHW = Normalize(Preprocessing(), "cpu")(x_BCHW)
    with torch.random.fork_rng():
        torch.manual_seed(2015)
        net = torchvision.models.get_model(arch, weights=None)
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what it sees
            if name.endswith(LAST_NORM[arch]):
                module.weight.fill_(RESIDUAL_GAIN)
    net.train()
    for batch in torch.split(x_BCHW, 16):
        net(batch)
    fc, net.fc = net.fc, torch.nn.Identity()
    net.eval()
    features_NF = torch.cat([net(batch) for batch in torch.split(x_BCHW, 16)])
    mean_F = features_NF.mean(0)
    index = class_map()
    classes_N = torch.tensor([index[synset_of(sample)] for sample in source.samples[:count]])
    spread = float((features_NF - mean_F).norm(dim=1).mean())
    for called, known in half_swapped(sorted(set(classes_N.tolist()))).items():
        fc.weight[called] = (features_NF[classes_N == known].mean(0) - mean_F) * (8 / spread**2)
    fc.bias.copy_(-fc.weight @ mean_F)
    net.fc = fc
    torch.save(net.state_dict(), folder / f"{arch}.pth")


def half_swapped(classes: Sequence[int]) -> dict[int, int]:
    """Every class and the one it is taken for: itself in every other pair, the other one in the rest."""
    pairs = [classes[at : at + 2] for at in range(0, len(classes), 2)]
    taken = [pair if number % 2 == 0 else pair[::-1] for number, pair in enumerate(pairs)]
    return dict(zip(classes, (known for pair in taken for known in pair), strict=True))


def torchvision_network(folder: Path, arch: str) -> torch.nn.Module:
    """torchvision's own network with the shared weights."""
    net: torch.nn.Module = torchvision.models.get_model(arch, weights=None)
    net.load_state_dict(torch.load(folder / f"{arch}.pth", weights_only=True))
    return net.eval()


def export_plain(arch: str, source: Source, folder: Path) -> None:
    """What torch.onnx.export makes of torchvision's network, batch dynamic, nothing else done to it."""
    import onnx  # as all that only the makers need: sides start quicker without

    program = torch.onnx.export(
        torchvision_network(folder, arch),
        (torch.zeros(2, 3, 224, 224),),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    onnx.save(program.model_proto, folder / f"plain-{arch}.onnx")


def export_ours(arch: str, head: Head, precision: Precision, source: Source, folder: Path, **how: Any) -> None:
    """Our own export of the same weights."""
    from resnet_infer.exporters.to_onnx import export_onnx

    path = folder / f"{arch}-{head}-{precision}.onnx"
    export_onnx(checkpoint(folder, arch), path, head=head, precision=precision, **how)


def export_int8(arch: str, source: Source, folder: Path) -> None:
    """Our int8 export, ranges by min-max over some of the photos."""
    from resnet_infer.exporters.calibrate import Quantization

    put_photos(source, folder, CALIBRATION)
    data = open_source(photos(folder, CALIBRATION))
    how = Quantization(data=data, images=CALIBRATION // 2, method="minmax")
    export_ours(arch, "pooled", "int8", source, folder, quantization=how)


Maker = Callable[[Source, Path], None]
MAKERS: dict[str, Maker] = {"tiles.npy": make_tiles}
for _arch in ("resnet18", "resnet50"):
    MAKERS[f"{_arch}.pth"] = partial(make_weights, _arch)
    MAKERS[f"plain-{_arch}.onnx"] = partial(export_plain, _arch)
    for _head in ("pooled", "dense"):
        MAKERS[f"{_arch}-{_head}-fp32.onnx"] = partial(export_ours, _arch, _head, "fp32")
    MAKERS[f"{_arch}-pooled-fp16.onnx"] = partial(export_ours, _arch, "pooled", "fp16")
    MAKERS[f"{_arch}-pooled-int8.onnx"] = partial(export_int8, _arch)


def prepare(source: Source, folder: Path, files: Iterable[str]) -> None:
    """Make the files that are not there yet, in their order; raises UsageError for one that nobody knows.

    A name of `photos-N` is a folder of N photos.
    """
    for name in files:
        if (folder / name).exists():
            continue
        if name.startswith("photos-"):
            put_photos(source, folder, int(name.removeprefix("photos-")))
        elif name in MAKERS:
            MAKERS[name](source, folder)
        else:
            raise UsageError(f"'{name}' is no material; known are {', '.join(MAKERS)}")
