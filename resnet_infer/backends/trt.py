"""A TensorRT engine on a CUDA device: torch tensors as its buffers, a stream of its own.

Before a plan is handed to TensorRT its manifest is compared with this host (engines.py): TensorRT would read all of it
and then say less. How its runs are started is trt_launch.py's.

Shapes: B tiles, C is 3, H and W pixels, K classes, h and w positions of the score map.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_infer.backends.base import BackendInfo
from resnet_infer.backends.devices import torch_device
from resnet_infer.backends.graph_ends import GraphInput, GraphScores
from resnet_infer.backends.streams import OwnStream
from resnet_infer.backends.tensorrt_api import load_flavour, make_log, this_host
from resnet_infer.backends.trt_launch import Launcher
from resnet_infer.errors import ArtifactError, BackendError, OutOfMemory
from resnet_infer.spec.architectures import Head
from resnet_infer.spec.engine_manifest import EngineRecord, check_host
from resnet_infer.spec.shapes import Shape, range_for


class TensorRTBackend:
    """An engine on one device; serves the head it was built with."""

    def __init__(
        self, name: str, record: EngineRecord, plan: bytes, device: str = "auto", *, cuda_graph: bool = False
    ) -> None:
        """Raises ArtifactError if the engine does not fit this host, BackendError if TensorRT refuses it."""
        if device != "auto" and torch_device(device).type != "cuda":
            raise BackendError(f"{name}: an engine runs on a CUDA device, not on {device}; leave --device out")
        index = torch.device(device).index or 0 if device != "auto" else 0
        check_host(record, this_host(record.flavour, index), Path(name))
        self.device = torch_device(f"cuda:{index}")
        self._trt = load_flavour(record.flavour)
        self._log = make_log(self._trt)
        torch.cuda.set_device(self.device)  # TensorRT deserialises onto the current device
        runtime = self._trt.Runtime(self._log)
        runtime.engine_host_code_allowed = record.version_compatible
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(f"{name}: TensorRT refused the engine ({self._log.last('no reason given')}); rebuild it")
        if self._engine.num_optimization_profiles != len(record.profiles):
            raise ArtifactError(
                f"{name}: has {self._engine.num_optimization_profiles} profiles, its manifest {len(record.profiles)}; "
                "put the two files of one build together"
            )
        self._own = OwnStream(self.device)
        self._input, _ = ends = self._tensor_names(name)
        self._launch = Launcher(name, self._trt, self._engine, self._log, ends, self._own, record=cuda_graph)
        self._record = record
        self._as_input = GraphInput(record.manifest, self.device, self._launch.dtype)
        self._as_logits = GraphScores(record.manifest, name)
        self.shapes = record.profiles
        self.info = BackendInfo(
            name="tensorrt",
            device=str(self.device),
            precision=record.manifest.precision,
            heads=(record.manifest.head or "pooled",),
            artifact=name,
            versions={record.flavour: record.version},
        )

    @torch.inference_mode()
    def run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """See Backend.run. A batch below the profile's smallest is filled up and the filling's scores dropped."""
        batch, _, height, width = x_BCHW.shape
        profile = range_for(self.shapes, height, width)
        if profile is None or batch > self.shapes[profile].max[0]:
            accepted = "; ".join(shape.describe() for shape in self.shapes)
            raise BackendError(
                f"{self.info.artifact}: no profile takes {batch} x 3 x {height} x {width}; it has {accepted}. "
                "Build it with a larger --batch-range or --max-aspect, or other --scales"
            )
        missing = self.shapes[profile].min[0] - batch
        if missing > 0:
            x_BCHW = F.pad(x_BCHW, (0, 0, 0, 0, 0, 0, 0, missing))
        try:
            with self._own.turn() as current:
                x = self._as_input(x_BCHW.to(self.device, non_blocking=True))
                scores = self._launch(profile, x)[:batch].float()
        except (OutOfMemory, torch.OutOfMemoryError) as error:
            self._launch.free()
            raise OutOfMemory(f"a batch of {batch} at {width}x{height} does not fit {self.device}") from error
        scores.record_stream(current)
        scores_BKhw = scores if scores.ndim == 4 else scores[:, :, None, None]
        if head == "pooled" and scores_BKhw.shape[2:] != (1, 1):
            raise BackendError(
                f"{self.info.artifact} has the dense head, which at {width}x{height} gives a map; "
                "export with --head pooled for this protocol"
            )
        return self._as_logits(scores_BKhw)

    def close(self) -> None:
        """See Backend.close."""
        self._launch.close()
        del self._engine

    def layer_information(self) -> str:
        """What TensorRT's inspector says of the engine's layers, as JSON; detailed if it was built so."""
        inspector = self._engine.create_engine_inspector()
        context = self._launch.context(0)
        context.set_input_shape(self._input, self._shape(self.shapes[0].opt))  # without one, types are left open
        inspector.execution_context = context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def _tensor_names(self, name: str) -> tuple[str, str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        mode = self._trt.TensorIOMode
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == mode.INPUT]
        outputs = [n for n in names if self._engine.get_tensor_mode(n) == mode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise ArtifactError(f"{name}: has inputs {inputs} and outputs {outputs}; a classifier has one of each")
        return inputs[0], outputs[0]

    def _shape(self, shape: Shape) -> tuple[int, ...]:
        batch, height, width = shape
        channels_last = self._record.manifest.input.endswith("-nhwc")
        channels = self._record.manifest.input_channels
        return (batch, height, width, channels) if channels_last else (batch, channels, height, width)
