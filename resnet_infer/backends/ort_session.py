"""An ONNX Runtime session on exactly the provider that was asked for, with the options that matter to a ResNet.

Options: onnxruntime.ai/docs/execution-providers, CUDA and TensorRT. Precision is in the graph, so none of the TensorRT
provider's own precision switches is set; TensorRT 11 has none.
"""

import contextlib
import importlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import onnxruntime as ort
import torch

from resnet_infer.backends.base import Provider, RunOptions
from resnet_infer.errors import ArtifactError, BackendError, OutOfMemory, UsageError
from resnet_infer.files import cache_folder
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.shapes import Shape, ShapeRange

EXECUTION_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
REMEDIES = {
    "cuda": "its CUDA or cuDNN libraries were not found. Match onnxruntime-gpu to the installed CUDA, or use "
    "--device cpu",
    "tensorrt": "its TensorRT library was not found. It is built for one major release (libnvinfer.so.10 for "
    "onnxruntime 1.31): pip install 'tensorrt>=10.13,<11', or use --provider cuda",
}
NO_MEMORY = re.compile(
    r"failed to allocate|smaller than requested bytes|free memory block"  # its arena
    r"|out of memory|cudaErrorMemoryAllocation|cudaMallocFromPoolAsync failed"
    r"|ALLOC_FAILED|ALLOCATION_FAILED|resource allocation failed"  # cuBLAS, cuDNN
    r"|bad_alloc|bad allocation|can't allocate memory",  # C++, and torch on a CPU
    re.IGNORECASE,
)
"""What onnxruntime says when memory runs out: core/framework/bfc_arena.cc and core/providers/cuda/cuda_call.cc, which
pass on what cudaGetErrorString, cublasGetStatusString and cudnnGetErrorString say."""


def open_session(
    path: Path,
    device: torch.device,
    options: RunOptions,
    precision: Precision = "fp32",
    *,
    data: bytes | None = None,
    channels_last: bool = False,
    channels: int = 3,
    sides: Mapping[str, int] | None = None,
    stream: int = 0,
) -> ort.InferenceSession:
    """Open the file, or its bytes, on this device and provider; `sides` fixes symbolic dimensions of its input by name.

    `channels`, and whether they come last, are its input's.
    On a GPU it runs on the CUDA stream of handle `stream`, which must outlive it; on streams of its own for 0.
    Raises ArtifactError if the file is no ONNX model, OutOfMemory if its weights do not fit, BackendError if the
    provider does not run here or lacks a kernel for the file's type: ONNX Runtime itself would go on, silently, on
    another provider.
    """
    kind = _provider_for(options, device)
    provider = EXECUTION_PROVIDERS[kind]
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"{provider} asked for, but this onnxruntime {ort.__version__} offers only "
            f"{', '.join(ort.get_available_providers())}; install onnxruntime-gpu, or use --device cpu"
        )
    missing = load_libraries(kind)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # failures are raised below, in our words
    # Its threads would spin between calls and take the cores from decoding and from torch's own threads.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, side in (sides or {}).items():
        settings.add_free_dimension_override_by_name(name, side)
    if precision == "fp8":
        # Its fused kernels know int8 only, and its extended optimisations (1.31) change fp8 scores without a word:
        # round to fp8 and back around float kernels, which is what the graph says.
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        providers = provider_settings(kind, device, options, channels_last, stream, channels)
        session = ort.InferenceSession(data or path, settings, providers=providers)
    except Exception as error:  # onnxruntime raises its own kinds, which it does not export
        if ran_out_of_memory(error):
            raise OutOfMemory(f"{path}: its weights do not fit the memory of {device} ({first_line(error)})") from error
        if "NOT_IMPLEMENTED" in str(error):
            raise BackendError(
                f"{path}: onnxruntime has no kernel for it on {provider} ({first_line(error)}); bf16 needs CUDA or "
                "TensorRT: run it there, or export with --precision fp16 or fp32"
            ) from error
        raise ArtifactError(f"{path}: onnxruntime cannot load it ({first_line(error)}); export it again") from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"{provider} asked for, but onnxruntime fell back to {session.get_providers()[0]}: "
            f"{REMEDIES[kind]}{missing}"
        )
    return session


def load_libraries(kind: Provider) -> str:
    """Load what the provider's library needs, from NVIDIA's wheels, which are on no search path.

    Returns what onnxruntime says of those that it did not find, in brackets; it would print that.
    """
    if kind == "cpu":
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()  # CUDA and cuDNN: already loaded ones of torch's, if they are of the same release
    if kind == "tensorrt":
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorrt")  # loads the libraries of its wheel
    problem = " ".join(said.getvalue().split())[:200]
    return f" ({problem})" if problem else ""


def provider_settings(
    name: Provider,
    device: torch.device,
    options: RunOptions,
    channels_last: bool = False,
    stream: int = 0,
    channels: int = 3,
) -> list[tuple[str, dict[str, Any]]]:
    """The `providers` argument of InferenceSession; TensorRT leaves what it cannot run to CUDA, on the same stream."""
    if name == "cpu":
        return [(EXECUTION_PROVIDERS["cpu"], {})]
    cuda: dict[str, Any] = {
        "device_id": device.index or 0,
        "use_tf32": int(options.tf32),
        "prefer_nhwc": int(options.prefer_nhwc),
        "enable_cuda_graph": int(options.cuda_graph),
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    shared = {"user_compute_stream": str(stream)} if stream else {}
    cuda |= shared
    if name == "cuda":
        return [(EXECUTION_PROVIDERS["cuda"], cuda)]
    cache = options.cache or cache_folder() / "onnxruntime-tensorrt"
    cache.mkdir(parents=True, exist_ok=True)
    tensorrt: dict[str, Any] = {
        "device_id": device.index or 0,
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
        "trt_cuda_graph_enable": str(options.cuda_graph),
    }
    tensorrt |= shared | _profile_settings(options.profiles, channels_last, channels)
    return [
        (EXECUTION_PROVIDERS["tensorrt"], tensorrt),
        (EXECUTION_PROVIDERS["cuda"], cuda | {"enable_cuda_graph": 0}),  # a graph is one provider's affair
    ]


def _profile_settings(profiles: Sequence[ShapeRange], channels_last: bool, channels: int = 3) -> dict[str, str]:
    """Profiles in the provider's own notation, `input:1x3x224x224`, one after another with commas."""

    def written(shape: Shape) -> str:
        batch, height, width = shape
        sides = (height, width, channels) if channels_last else (channels, height, width)
        return "input:" + "x".join(map(str, (batch, *sides)))

    return {
        f"trt_profile_{end}_shapes": ",".join(written(getattr(profile, end)) for profile in profiles)
        for end in ("min", "opt", "max")
        if profiles
    }


def _provider_for(options: RunOptions, device: torch.device) -> Provider:
    wanted = options.provider or ("cuda" if device.type == "cuda" else "cpu")
    if wanted not in get_args(Provider):
        raise UsageError(f"--provider '{wanted}' is not one of {', '.join(get_args(Provider))}")
    if (wanted == "cpu") != (device.type == "cpu"):
        raise UsageError(f"--provider {wanted} and --device {device.type} contradict each other; leave one out")
    for flag, given, served in (
        ("--prefer-nhwc", options.prefer_nhwc, ("cuda",)),
        ("--cuda-graph", options.cuda_graph, ("cuda", "tensorrt")),
        ("--precision tf32", options.tf32, ("cuda", "tensorrt")),
    ):
        if given and wanted not in served:
            raise UsageError(f"{flag} is for onnxruntime on {' or '.join(served)}, not on {wanted}")
    return wanted


def ran_out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch may succeed where onnxruntime, or torch on its behalf, failed so."""
    return isinstance(error, MemoryError) or NO_MEMORY.search(str(error)) is not None


def first_line(error: Exception) -> str:
    """An error of onnxruntime's on one line of bounded length."""
    return " ".join(str(error).split())[:200]
