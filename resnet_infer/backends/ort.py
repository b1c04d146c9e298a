"""ONNX Runtime on CPU, CUDA or TensorRT; on a GPU, tensors stay there (I/O binding) and the host does not wait.

Sources: onnxruntime.ai/docs/execution-providers, CUDA and TensorRT (user_compute_stream, CUDA graphs), and
include/onnxruntime/core/session/onnxruntime_run_options_config_keys.h.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from resnet_infer.backends.base import BackendInfo, RunOptions
from resnet_infer.backends.devices import check_tf32, torch_device
from resnet_infer.backends.graph_ends import GraphInput, GraphScores
from resnet_infer.backends.ort_session import first_line, open_session, ran_out_of_memory
from resnet_infer.backends.streams import OwnStream
from resnet_infer.errors import ArtifactError, BackendError, OutOfMemory
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.shapes import ANY, ShapeRange

TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}
ELEMENTS = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.uint8: TensorProto.UINT8}
MAX_SIZES = 6
"""Input sizes that get a session of their own on a CPU, each with its own copy of the weights."""
RUNS_BEFORE = 2
"""Runs of a size before it gets one: opening it costs about as much as a batch."""
MAX_GRAPHS = 16
"""Input shapes whose launches are recorded; each holds memory of its own."""


class OrtBackend:
    """An ONNX file on one device; serves the head it was exported with."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        device: str = "auto",
        options: RunOptions | None = None,
        *,
        data: bytes | None = None,
    ) -> None:
        """`data` are the file's bytes, which then need not be what it holds by now.

        Raises what `open_session` does, and ArtifactError if the graph does not fit its manifest.
        """
        options = options or RunOptions()
        if device == "auto" and options.provider:
            device = "cpu" if options.provider == "cpu" else "cuda"
        self.device = torch_device(device)
        if options.tf32:
            check_tf32(self.device)
        channels_last = manifest.input.endswith("-nhwc")
        self._own = OwnStream(self.device) if self.device.type == "cuda" else None
        self._open = partial(
            open_session,
            path,
            self.device,
            precision=manifest.precision,
            data=data,
            channels_last=channels_last,
            channels=manifest.input_channels,
            stream=self._own.handle if self._own else 0,
        )
        self._options = options
        self._each_its_session = options.provider == "tensorrt"
        self._session = self._open(replace(options, cuda_graph=options.cuda_graph and not self._each_its_session))
        (image,), scores = self._session.get_inputs(), _output(self._session.get_outputs(), manifest, path)
        self._input, self._output = image.name, scores.name
        if image.type not in TYPES or len(image.shape) != 4 or len(scores.shape) not in (2, 4):
            raise ArtifactError(
                f"{path}: takes {image.type} {image.shape} and gives {scores.shape}; a classifier takes float "
                "(batch, 3, height, width) and gives logits (batch, classes) or a map of them"
            )
        self.dtype, self.output_dtype = TYPES[image.type], TYPES.get(scores.type, torch.float32)
        if (self.dtype == torch.uint8) != manifest.input.startswith("uint8"):
            raise ArtifactError(
                f"{path}: takes {image.type}, but its manifest says that its input is {manifest.input}; export it again"
            )
        channels = image.shape[3 if channels_last else 1]
        if isinstance(channels, int) and channels != manifest.input_channels:
            raise ArtifactError(
                f"{path}: takes {channels} channels, and its preprocessing gives {manifest.input_channels}; give "
                "--mean and --std with one number a channel, or export it again"
            )
        self._spec = manifest.spec
        self.fixed_batch = image.shape[0] if isinstance(image.shape[0], int) else 0
        head: Head = "pooled" if len(scores.shape) == 2 or (manifest.adopted and manifest.head == "pooled") else "dense"
        self._rank = len(scores.shape)
        classes = scores.shape[1]
        if isinstance(classes, int) and classes != manifest.spec.classes:
            raise ArtifactError(
                f"{path}: the graph has {classes} classes, but its manifest or --arch says {manifest.spec.classes}"
            )
        sides = image.shape[1:3] if channels_last else image.shape[2:]
        (low_h, high_h), (low_w, high_w) = [(side, side) if isinstance(side, int) else (1, ANY) for side in sides]
        self._side_names = tuple(side for side in sides if isinstance(side, str))
        self._runs: Counter[tuple[int, int]] = Counter()
        self._of_size: dict[tuple[int, int], ort.InferenceSession] = {}
        crop = manifest.preprocessing.crop
        shape = ShapeRange(
            min=(1, low_h, low_w),
            opt=(self.fixed_batch or 1, min(max(crop, low_h), high_h), min(max(crop, low_w), high_w)),
            max=(self.fixed_batch or ANY, high_h, high_w),
        )
        self.shapes: tuple[ShapeRange, ...] = (shape,)
        self.info = BackendInfo(
            name="onnxruntime",
            device=str(self.device),
            precision="tf32" if options.tf32 else manifest.precision,
            heads=(head,),
            artifact=path.name,
            versions={"onnxruntime": ort.__version__, "provider": self._session.get_providers()[0]},
        )
        self._as_input = GraphInput(manifest, self.device, self.dtype)
        self._as_logits = GraphScores(manifest, path.name)
        self._graphs: dict[tuple[int, ...], _Recorded] | None = {} if options.cuda_graph else None
        self._graph_names = map(str, count(1))  # never one again: onnxruntime keeps what it recorded under a name

    @torch.inference_mode()
    def run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """See Backend.run. A dense graph serves the pooled head where its map is one window, which is the same."""
        batch, _, height, width = x_BCHW.shape
        if batch < self.fixed_batch:
            x_BCHW = F.pad(x_BCHW, (0, 0, 0, 0, 0, 0, 0, self.fixed_batch - batch))
        shape = self._output_shape(len(x_BCHW), height, width)
        try:
            if self._own is None:
                scores = self._run(x_BCHW, shape)
            else:
                with self._own.turn() as current:
                    scores = self._run(x_BCHW, shape)
                scores.record_stream(current)
        except Exception as error:  # onnxruntime raises its own kinds, which it does not export
            if ran_out_of_memory(error):
                self._free()
                raise OutOfMemory(f"a batch of {tuple(x_BCHW.shape)} does not fit ({first_line(error)})") from error
            raise BackendError(
                f"{self.info.artifact}: onnxruntime failed at {tuple(x_BCHW.shape)}: {first_line(error)}"
            ) from error
        scores = scores[:batch].float()
        scores_BKhw = scores if scores.ndim == 4 else scores[:, :, None, None]
        if head == "pooled" and scores_BKhw.shape[2:] != (1, 1):
            raise BackendError(
                f"{self.info.artifact} has the dense head, which at {width}x{height} gives a map of "
                f"{scores_BKhw.shape[3]}x{scores_BKhw.shape[2]}; export with --head pooled for this protocol"
            )
        return self._as_logits(scores_BKhw)

    def close(self) -> None:
        """See Backend.close."""
        if self._own:
            self._own.synchronize()
        self._graphs = None
        self._of_size.clear()
        del self._session

    def _free(self) -> None:
        """Give back what a smaller batch can do without: recorded runs, and what torch keeps for later."""
        if self._graphs:
            self._graphs.clear()
        if self._own:
            torch.cuda.empty_cache()

    def _session_for(self, height: int, width: int) -> ort.InferenceSession:
        """On a CPU, the session of a size that comes often: with its sides known, onnxruntime lays out memory ahead of
        time, and resnet50 runs 1.14 times as fast (benchmarks/NOTES.md). The scores are the same bits."""
        size = height, width
        if self.device.type != "cpu" or len(self._side_names) != 2 or len(set(self._side_names)) != 2:
            return self._session
        self._runs[size] += 1
        if size not in self._of_size and self._runs[size] > RUNS_BEFORE and len(self._of_size) < MAX_SIZES:
            self._of_size[size] = self._open(self._options, sides=dict(zip(self._side_names, size, strict=True)))
        return self._of_size.get(size, self._session)

    def _output_shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        if self.info.heads == ("pooled",):
            return (batch, self._spec.classes, 1, 1)[: self._rank]
        map_size, window = self._spec.map_size, self._spec.window
        return batch, self._spec.classes, map_size(height) - window + 1, map_size(width) - window + 1

    def _run(self, x_BCHW: Tensor, shape: tuple[int, ...]) -> Tensor:
        session = self._session_for(*x_BCHW.shape[2:])
        x = self._as_input(x_BCHW.to(self.device, non_blocking=True))
        if self._graphs is None:
            return self._run_once(session, x, shape, None)
        key = tuple(x.shape)
        if key not in self._graphs and len(self._graphs) < MAX_GRAPHS:
            self._graphs[key] = self._recorded(x, shape)
        if recorded := self._graphs.get(key):
            recorded.x.copy_(x)
            self._run_bound(recorded.session, recorded.binding, recorded.name)
            return recorded.scores.clone()
        return self._run_once(session, x, shape, None if self._each_its_session else "-1")  # not to be recorded

    def _run_once(self, session: ort.InferenceSession, x: Tensor, shape: tuple[int, ...], graph: str | None) -> Tensor:
        scores = torch.empty(shape, dtype=self.output_dtype, device=self.device)
        self._run_bound(session, self._bind(session, x, scores), graph)
        return scores

    def _recorded(self, x: Tensor, shape: tuple[int, ...]) -> "_Recorded":
        """Buffers for a run that onnxruntime records when it is first made.

        A TensorRT context that takes another shape spoils what was recorded from it (trt_launch.py), and a session has
        one: each recorded shape gets a session.
        """
        session = self._open(self._options) if self._each_its_session else self._session
        still, scores = x.clone(), torch.empty(shape, dtype=self.output_dtype, device=self.device)
        return _Recorded(session, still, scores, self._bind(session, still, scores), next(self._graph_names))

    def _bind(self, session: ort.InferenceSession, x: Tensor, scores: Tensor) -> Any:
        binding: Any = session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self._input, x),
            (binding.bind_output, self._output, scores),
        ):
            kind, index = tensor.device.type, tensor.device.index or 0
            bind(name, kind, index, ELEMENTS[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        return binding

    def _run_bound(self, session: ort.InferenceSession, binding: Any, graph: str | None) -> None:
        settings = ort.RunOptions()
        if self._own:
            settings.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if graph:
            settings.add_run_config_entry("gpu_graph_id", graph)
        session.run_with_iobinding(binding, settings)


def _output(outputs: list[Any], manifest: Manifest, path: Path) -> Any:
    """The session's output that has the scores; never just the first of several."""
    names = [output.name for output in outputs]
    if manifest.output_name in names:
        return outputs[names.index(manifest.output_name)]
    if manifest.output_name or len(outputs) > 1:
        raise ArtifactError(
            f"{path}: has the outputs {', '.join(names)}, and its manifest says that scores are "
            f"'{manifest.output_name}'; adopt or export it again"
        )
    return outputs[0]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The buffers of one input shape, whose addresses a CUDA graph keeps, its name, and its session."""

    session: ort.InferenceSession
    x: Tensor
    scores: Tensor
    binding: Any
    name: str
