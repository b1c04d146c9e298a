"""An ONNX Runtime session on exactly the provider that was asked for, with the options that matter to a ResNet.

Options: onnxruntime.ai/docs/execution-providers, CUDA and TensorRT. Precision is in the graph, so none of the TensorRT
provider's own precision switches is set; TensorRT 11 has none.
"""

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import onnxruntime as ort
import torch

from resnet_infer.backends.base import Provider, RunOptions
from resnet_infer.errors import ArtifactError, BackendError, UsageError
from resnet_infer.precisions import Precision
from resnet_infer.registry import cache_folder
from resnet_infer.shapes import Shape, ShapeRange

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


def open_session(
    path: Path,
    device: torch.device,
    options: RunOptions,
    precision: Precision = "fp32",
    *,
    channels_last: bool = False,
    sides: Mapping[str, int] | None = None,
) -> ort.InferenceSession:
    """Open the file on this device and provider; `sides` fixes symbolic dimensions of its input, by their names.

    Raises ArtifactError if the file is no ONNX model, BackendError if the provider does not run here or lacks a kernel
    for the file's type: ONNX Runtime itself would go on, silently, on another provider.
    """
    kind = _provider_for(options, device)
    provider = EXECUTION_PROVIDERS[kind]
    if provider not in ort.get_available_providers():
        raise BackendError(
            f"{provider} asked for, but this onnxruntime {ort.__version__} offers only "
            f"{', '.join(ort.get_available_providers())}; install onnxruntime-gpu, or use --device cpu"
        )
    if kind == "tensorrt":
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorrt")  # loads the libraries of its wheel, which are on no search path
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
        session = ort.InferenceSession(
            path, settings, providers=provider_settings(kind, device, options, channels_last)
        )
    except Exception as error:  # onnxruntime raises its own kinds, which it does not export
        if "NOT_IMPLEMENTED" in str(error):
            raise BackendError(
                f"{path}: onnxruntime has no kernel for it on {provider} ({first_line(error)}); bf16 needs CUDA or "
                "TensorRT: run it there, or export with --precision fp16 or fp32"
            ) from error
        raise ArtifactError(f"{path}: onnxruntime cannot load it ({first_line(error)}); export it anew") from error
    if session.get_providers()[0] != provider:
        raise BackendError(
            f"{provider} asked for, but onnxruntime fell back to {session.get_providers()[0]}: {REMEDIES[kind]}"
        )
    return session


def provider_settings(
    name: Provider, device: torch.device, options: RunOptions, channels_last: bool = False
) -> list[tuple[str, dict[str, Any]]]:
    """The `providers` argument of InferenceSession; TensorRT leaves what it cannot run to CUDA."""
    if name == "cpu":
        return [(EXECUTION_PROVIDERS["cpu"], {})]
    cuda: dict[str, Any] = {
        "device_id": device.index or 0,
        "use_tf32": int(options.tf32),
        "prefer_nhwc": int(options.prefer_nhwc),
        "enable_cuda_graph": int(options.cuda_graph),
        "cudnn_conv_algo_search": "HEURISTIC",
    }
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
    } | _profile_settings(options.profiles, channels_last)
    return [
        (EXECUTION_PROVIDERS["tensorrt"], tensorrt),
        (EXECUTION_PROVIDERS["cuda"], cuda | {"enable_cuda_graph": 0}),  # a graph is one provider's affair
    ]


def _profile_settings(profiles: Sequence[ShapeRange], channels_last: bool) -> dict[str, str]:
    """Profiles in the provider's own notation, `input:1x3x224x224`, one after another with commas."""

    def written(shape: Shape) -> str:
        batch, height, width = shape
        sides = (height, width, 3) if channels_last else (3, height, width)
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


def first_line(error: Exception) -> str:
    """An error of onnxruntime's on one line of bounded length."""
    return " ".join(str(error).split())[:200]
