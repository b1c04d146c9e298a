"""ONNX Runtime on CPU or CUDA; on CUDA, tensors stay on the device (I/O binding)."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_infer.backends.base import ANY, BackendInfo, Normalize, ShapeRange
from resnet_infer.backends.pytorch import torch_device
from resnet_infer.errors import ArtifactError, BackendError, OutOfMemory
from resnet_infer.manifest import Manifest
from resnet_infer.specs import Head

TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
NUMPY_TYPES = {torch.float32: np.float32, torch.float16: np.float16}
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16"}


def open_session(path: Path, device: str = "auto") -> ort.InferenceSession:
    """An ONNX Runtime session on exactly this device.

    Raises ArtifactError if the file is no ONNX model, BackendError if the provider does not run here: ONNX Runtime
    itself would go on, silently, on the CPU.
    """
    target = torch_device(device)
    provider = "CUDAExecutionProvider" if target.type == "cuda" else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"{provider} asked for, but this onnxruntime {ort.__version__} offers only "
            f"{', '.join(ort.get_available_providers())}; install onnxruntime-gpu, or use --device cpu"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures are raised below, in our words
    # Its threads would spin between calls and take the cores from decoding and from torch's own threads.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cuda = {"device_id": target.index or 0, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    try:
        session = ort.InferenceSession(path, options, providers=[(provider, cuda if target.type == "cuda" else {})])
    except Exception as error:  # onnxruntime raises its own kinds, which it does not export
        raise ArtifactError(f"{path}: onnxruntime cannot load it ({_first_line(error)}); export it anew") from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"{provider} asked for, but onnxruntime fell back to {session.get_providers()[0]}: its CUDA or cuDNN "
            "libraries were not found. Match onnxruntime-gpu to the installed CUDA, or use --device cpu"
        )
    return session


class OrtBackend:
    """An ONNX file on one device; serves the head it was exported with."""

    def __init__(self, path: Path, manifest: Manifest, device: str = "auto") -> None:
        """Raises what `open_session` does, and ArtifactError if the graph does not fit its manifest."""
        self._session = open_session(path, device)
        self.device = torch_device(device)
        (image,), (scores, *_) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = image.name, scores.name
        if image.type not in TYPES or len(image.shape) != 4 or len(scores.shape) not in (2, 4):
            raise ArtifactError(
                f"{path}: takes {image.type} {image.shape} and gives {scores.shape}; a classifier takes float "
                "(batch, 3, height, width) and gives logits (batch, classes) or a map of them"
            )
        self.dtype, self.output_dtype = TYPES[image.type], TYPES.get(scores.type, torch.float32)
        self._spec = manifest.spec
        self.fixed_batch = image.shape[0] if isinstance(image.shape[0], int) else 0
        head: Head = "pooled" if len(scores.shape) == 2 else "dense"
        classes = scores.shape[1]
        if isinstance(classes, int) and classes != manifest.spec.classes:
            raise ArtifactError(
                f"{path}: the graph has {classes} classes, but its manifest or --arch says {manifest.spec.classes}"
            )
        sides = [(side, side) if isinstance(side, int) else (1, ANY) for side in image.shape[2:]]
        (low_h, high_h), (low_w, high_w) = sides
        crop = manifest.preprocessing.crop
        self.shapes = ShapeRange(
            min=(1, low_h, low_w),
            opt=(self.fixed_batch or 1, min(max(crop, low_h), high_h), min(max(crop, low_w), high_w)),
            max=(self.fixed_batch or ANY, high_h, high_w),
        )
        self.info = BackendInfo(
            name="onnxruntime",
            device=str(self.device),
            precision=manifest.precision if manifest.head else PRECISIONS[self.dtype],
            heads=(head,),
            artifact=path.name,
            versions={"onnxruntime": ort.__version__, "provider": self._session.get_providers()[0]},
        )
        self._normalize = Normalize(manifest.preprocessing, self.device)

    @torch.inference_mode()
    def run(self, x_BCHW: Tensor, head: Head) -> Tensor:
        """See Backend.run. A dense graph serves the pooled head where its map is one window, which is the same."""
        batch = len(x_BCHW)
        if batch < self.fixed_batch:
            x_BCHW = F.pad(x_BCHW, (0, 0, 0, 0, 0, 0, 0, self.fixed_batch - batch))
        x_BCHW = self._normalize(x_BCHW.to(self.device)).to(self.dtype).contiguous()
        try:
            scores = torch.empty(self._output_shape(x_BCHW), dtype=self.output_dtype, device=self.device)
            self._run_bound(x_BCHW, scores)
        except Exception as error:  # onnxruntime raises its own kinds, which it does not export
            if "allocat" in str(error) and "memory" in str(error).lower():
                raise OutOfMemory(f"a batch of {tuple(x_BCHW.shape)} does not fit ({_first_line(error)})") from error
            raise BackendError(
                f"{self.info.artifact}: onnxruntime failed at {tuple(x_BCHW.shape)}: {_first_line(error)}"
            ) from error
        scores = scores[:batch].float()
        scores_BKhw = scores if scores.ndim == 4 else scores[:, :, None, None]
        if head == "pooled" and scores_BKhw.shape[2:] != (1, 1):
            height, width = x_BCHW.shape[2:]
            raise BackendError(
                f"{self.info.artifact} has the dense head, which at {width}x{height} gives a map of "
                f"{scores_BKhw.shape[3]}x{scores_BKhw.shape[2]}; export with --head pooled for this protocol"
            )
        return scores_BKhw

    def close(self) -> None:
        """See Backend.close."""
        del self._session

    def _output_shape(self, x_BCHW: Tensor) -> tuple[int, ...]:
        batch, _, height, width = x_BCHW.shape
        if self.info.heads == ("pooled",):
            return batch, self._spec.classes
        map_size, window = self._spec.map_size, self._spec.window
        return batch, self._spec.classes, map_size(height) - window + 1, map_size(width) - window + 1

    def _run_bound(self, x_BCHW: Tensor, scores: Tensor) -> None:
        binding: Any = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self._input, x_BCHW),
            (binding.bind_output, self._output, scores),
        ):
            kind, index = tensor.device.type, tensor.device.index or 0
            bind(name, kind, index, NUMPY_TYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        if x_BCHW.is_cuda:
            torch.cuda.current_stream(self.device).synchronize()  # onnxruntime works on a stream of its own
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
