"""A subject of a sweep, opened: a checkpoint as it is, or exported for the backend that is to be measured."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.described import Asked, cut, described
from resnet_infer.backends.devices import torch_device
from resnet_infer.backends.load import Model, open_asked, open_model
from resnet_infer.backends.pytorch import TorchBackend
from resnet_infer.backends.tensorrt_api import find_flavour
from resnet_infer.bench.sweep import RANDOM, Subject, is_exported
from resnet_infer.data.source import Source
from resnet_infer.errors import UsageError
from resnet_infer.exporters.calibrate import FEWEST, Quantization
from resnet_infer.exporters.engine_builder import BuildOptions
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.exporters.to_tensorrt import build_engine
from resnet_infer.model.checkpoints import Checkpoint, load_checkpoint, native_preprocessing
from resnet_infer.model.resnet import build
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import IMAGENET_MEAN, IMAGENET_STD, InputFormat
from resnet_infer.spec.protocols import protocol_of_head
from resnet_infer.spec.shapes import BatchRange, profiles_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """Opens subjects on one device; exports go to `folder` and are made once.

    On a GPU they take the image's bytes: normalising them before the graph costs three passes over floats.
    """

    folder: Path
    device: str
    calibration: Source | None = None
    """Images for int8 and fp8."""
    _checkpoints: dict[str, Checkpoint] = field(default_factory=dict)

    @contextmanager
    def open(self, subject: Subject) -> Iterator[tuple[Model, float]]:
        """Yield the model and the seconds that exporting and building took; closes it.

        Raises what opening, exporting and building do.
        """
        begun = time.perf_counter()
        model = self.opened(subject)
        built = time.perf_counter() - begun if self._is_made(subject) else 0.0
        try:
            yield model, built
        finally:
            model.backend.close()

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of this name, loaded once; random weights for ARCHITECTURE.random."""
        if name not in self._checkpoints:
            if name.endswith(RANDOM):
                self._checkpoints[name] = random_checkpoint(name)
            else:
                asked = asked_for(name)
                loaded = load_checkpoint(asked.model, asked.overrides)
                said = f"?{asked.said}" if asked.said else ""
                self._checkpoints[name] = replace(loaded, name=f"{loaded.name}{said}")
        return self._checkpoints[name]

    def know(self, name: str, checkpoint: Checkpoint) -> None:
        """Take this checkpoint for the name."""
        self._checkpoints[name] = checkpoint

    def _is_made(self, subject: Subject) -> bool:
        return not _is_exported(subject) and subject.backend != "torch"

    def opened(self, subject: Subject) -> Model:
        """The model, which is the caller's to close."""
        if _is_exported(subject):
            return open_asked(asked_for(subject.model), self.device)
        checkpoint = self.checkpoint(subject.model)
        if subject.backend == "torch":
            backend = TorchBackend(
                checkpoint,
                self.device,
                subject.precision,  # type: ignore[arg-type]  # Sweep checked it
                compile=None if subject.compile == "none" else subject.compile,  # type: ignore[arg-type]
                autocast=subject.autocast,
            )
            return Model(name=checkpoint.name, manifest=checkpoint.manifest, backend=backend)
        path = self._export(checkpoint, subject)
        if subject.backend == "tensorrt":
            path = self._build(path, checkpoint, subject)
        tf32 = subject.precision == "tf32" and subject.backend == "onnxruntime"
        options = RunOptions(tf32=True) if tf32 else RunOptions()
        return replace(open_model(str(path), device=self.device, options=options), name=checkpoint.name)

    def _export(self, checkpoint: Checkpoint, subject: Subject) -> Path:
        precision = "fp32" if subject.precision == "tf32" else subject.precision
        head: Head = "dense" if subject.dense else "pooled"
        on_gpu = subject.backend == "tensorrt" or torch_device(self.device).type == "cuda"
        layout: InputFormat = "uint8-nhwc" if on_gpu else "normalized"
        # of the weights, and of what is said of them: an export kept from another run may be of another mean
        digest = hashlib.sha256(checkpoint.manifest.to_json().encode()).hexdigest()[:12]
        source = f"{Path(cut(subject.model)[0]).name}-{digest}"
        path = self.folder / f"{source}.{layout}.{head}.{precision}.{subject.backend}.onnx"
        if path.exists():
            return path
        quantization = None
        if precision in ("int8", "fp8"):
            if self.calibration is None:
                raise UsageError(f"precision {precision} needs images to calibrate on: give --calibration-data DATA")
            quantization = Quantization(
                data=self.calibration,
                images=max(FEWEST, min(500, len(self.calibration.samples) // 2)),
                arrangement="tensorrt" if subject.backend == "tensorrt" else "onnxruntime",
            )
        export_onnx(
            checkpoint,
            path,
            head=head,
            precision=precision,  # type: ignore[arg-type]  # Sweep checked it
            input_format=layout,
            quantization=quantization,
        )
        return path

    def _build(self, onnx_path: Path, checkpoint: Checkpoint, subject: Subject) -> Path:
        path = onnx_path.with_suffix(".engine")
        manifest = checkpoint.manifest
        use = protocol_of_head("dense" if subject.dense else "pooled", manifest.spec, manifest.preprocessing)
        profiles = profiles_for(use, manifest.spec, BatchRange())
        flavour = find_flavour(None)
        build_engine(
            onnx_path,
            path,
            BuildOptions(flavour=flavour, profiles=profiles, tf32=subject.precision == "tf32"),
        )
        return path


def asked_for(name: str) -> Asked:
    """A model of a sweep by its name and what is said behind it; raises UsageError for what the sweep is to say."""
    asked = described(Asked(model=name))
    if asked.settings:
        raise UsageError(
            f"{name}: {', '.join(asked.settings)} is the sweep's to say; give --backends, --precisions or --compile"
        )
    return asked


@torch.no_grad()
def random_checkpoint(name: str) -> Checkpoint:
    """An architecture with seeded random weights, whose batch norms have seen random images, so that values stay in
    range as a trained network's do."""
    spec = spec_from_name(name.removesuffix(RANDOM))
    side = spec.native_size
    with torch.random.fork_rng():
        torch.manual_seed(2015)
        net = build(spec).train()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain mean of what it sees
        coarse = torch.randn(8, spec.channels, side // 8, side // 8)
        net(torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear"))
    usual = (IMAGENET_MEAN, IMAGENET_STD) if spec.channels == 3 else ((0.5,) * spec.channels,) * 2
    preprocessing = native_preprocessing(spec, *usual)
    return Checkpoint(
        name=name,
        manifest=Manifest(spec=spec, preprocessing=preprocessing, source=name),
        state_dict=net.eval().state_dict(),
    )


def _is_exported(subject: Subject) -> bool:
    return is_exported(subject.model)
