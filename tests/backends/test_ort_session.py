"""ONNX Runtime's providers: options it really has, profiles in its notation, and never another one than asked for."""

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch

from resnet_infer.backends.base import RunOptions
from resnet_infer.backends.load import open_model
from resnet_infer.backends.ort_session import load_libraries, open_session, provider_settings, ran_out_of_memory
from resnet_infer.errors import BackendError, UsageError
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint
from resnet_infer.model.resnet import ResNet
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.precisions import Precision
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.shapes import ShapeRange

CUDA = torch.device("cuda", 1)
PROFILES = (
    ShapeRange(min=(1, 224, 224), opt=(8, 224, 298), max=(32, 448, 448)),
    ShapeRange(min=(1, 640, 640), opt=(1, 640, 853), max=(4, 1280, 1280)),
)


@pytest.fixture(scope="module")
def exported(small_net: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], Path]:
    folder = tmp_path_factory.mktemp("exported")
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=32, crop=32))
    checkpoint = Checkpoint(name="random", manifest=manifest, state_dict=small_net.state_dict())

    def made(precision: Precision) -> Path:
        path = folder / f"{precision}.onnx"
        if not path.exists():
            export_onnx(checkpoint, path, precision=precision)
        return path

    return made


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_every_option_is_one_that_the_library_knows(tmp_path: Path, provider: str) -> None:
    """Onnxruntime refuses an unknown option only where the provider loads; so its own strings are asked."""
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if not library.is_file():
        pytest.skip("this onnxruntime is built without GPU providers")
    wanted = RunOptions(provider=provider, cache=tmp_path, profiles=PROFILES, cuda_graph=True)  # type: ignore[arg-type]
    (_, given), *_ = provider_settings(provider, CUDA, wanted)  # type: ignore[arg-type]
    known = library.read_bytes()
    assert len(given) >= 5
    assert [name for name in given if name.encode() not in known] == []
    assert b"trt_no_such_option" not in known


def test_profiles_are_written_as_the_provider_reads_them(tmp_path: Path) -> None:
    wanted = RunOptions(provider="tensorrt", cache=tmp_path / "engines", profiles=PROFILES)
    (name, given), (fallback, cuda) = provider_settings("tensorrt", CUDA, wanted)
    assert (name, fallback) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert given["trt_profile_min_shapes"] == "input:1x3x224x224,input:1x3x640x640"
    assert given["trt_profile_opt_shapes"] == "input:8x3x224x298,input:1x3x640x853"
    assert given["trt_profile_max_shapes"] == "input:32x3x448x448,input:4x3x1280x1280"
    assert given["trt_engine_cache_path"] == given["trt_timing_cache_path"] == str(tmp_path / "engines")
    assert (tmp_path / "engines").is_dir()
    assert (given["device_id"], cuda["device_id"]) == (1, 1)
    (_, last), *_ = provider_settings("tensorrt", CUDA, wanted, channels_last=True)
    assert last["trt_profile_min_shapes"] == "input:1x224x224x3,input:1x640x640x3"


def test_precision_is_never_a_switch_of_the_provider(tmp_path: Path) -> None:
    (_, given), *_ = provider_settings("tensorrt", CUDA, RunOptions(provider="tensorrt", cache=tmp_path))
    assert not [name for name in given if "fp16" in name or "int8" in name or "bf16" in name]


def test_tf32_is_off_unless_asked_for() -> None:
    assert provider_settings("cuda", CUDA, RunOptions())[0][1]["use_tf32"] == 0
    assert provider_settings("cuda", CUDA, RunOptions(tf32=True))[0][1]["use_tf32"] == 1


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_every_provider_runs_on_the_stream_it_is_given(tmp_path: Path, provider: str) -> None:
    wanted = RunOptions(cache=tmp_path)
    for _, given in provider_settings(provider, CUDA, wanted, stream=2**40):  # type: ignore[arg-type]
        assert given["user_compute_stream"] == str(2**40)
    for _, given in provider_settings(provider, CUDA, wanted):  # type: ignore[arg-type]
        assert "user_compute_stream" not in given


LOADER = """
import ctypes, re, subprocess, sys
from resnet_infer.backends.ort_session import load_libraries
said = load_libraries("cuda")
listed = subprocess.run(["ldd", sys.argv[1]], capture_output=True, text=True, check=True).stdout
for name in [*re.findall(r"(\\S+) => not found", listed), "libcudnn.so.9"]:
    try:
        ctypes.CDLL(name)
    except OSError:
        print(name)
print(said, file=sys.stderr)
"""


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="of onnxruntime-gpu on Linux")
def test_the_loader_finds_all_that_the_cuda_provider_needs() -> None:
    """In a process that has loaded nothing else. The driver's library is the machine's, and there with a GPU only."""
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.is_file():
        pytest.skip("this onnxruntime is built without GPU providers")
    done = subprocess.run([sys.executable, "-c", LOADER, library], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= (set() if torch.cuda.is_available() else {"libcuda.so.1"}), done.stderr


def test_what_onnxruntime_says_of_libraries_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load\nlibcurand.so.10"))
    assert load_libraries("cuda") == " (Failed to load libcurand.so.10)"
    assert load_libraries("cpu") == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("library", "function", "number"), [
    ("libcudart", "cudaGetErrorString", 2), ("libcudart", "cudaGetErrorName", 2),
    ("libcublas", "cublasGetStatusString", 3), ("libcublas", "cublasGetStatusName", 3),
    ("libcudnn", "cudnnGetErrorString", 4003), ("libcudnn", "cudnnGetErrorString", 4004),
])  # fmt: skip
def test_what_cuda_says_of_memory_that_ran_out_is_understood(library: str, function: str, number: int) -> None:
    load_libraries("cuda")
    versions = ("9",) if library == "libcudnn" else ("13", "12")
    for version in versions:
        try:
            say = getattr(ctypes.CDLL(f"{library}.so.{version}"), function)
        except OSError:
            continue
        say.restype = ctypes.c_char_p
        said = say(number).decode()
        assert ran_out_of_memory(RuntimeError(f"CUDA failure {number}: {said} ; GPU=0 ; hostname=h ; file=f ; expr=e"))
        return
    pytest.skip(f"{library} is not installed")


@pytest.mark.parametrize(("said", "understood"), [
    ("bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 8388608000", True),
    ("Available memory of 1024 is smaller than requested bytes of 2048", True),
    ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);", True),
    ("CudaMempoolArena::Alloc: cudaMallocFromPoolAsync failed: cudaErrorMemoryAllocation", True),
    ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=h ; expr=cublasCreate(&handle);", True),
    ("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=h", False),
    ("CUDA failure 900: operation not permitted when stream is capturing ; expr=cudaMalloc((void**)&p, size);", False),
    ("Non-zero status code returned while running Conv node: input channels do not match", False),
])  # fmt: skip
def test_what_onnxruntime_says_of_memory_that_ran_out_is_understood(said: str, understood: bool) -> None:
    assert ran_out_of_memory(RuntimeError(said)) == understood


@pytest.mark.parametrize(("options", "words"), [
    (RunOptions(prefer_nhwc=True), "--prefer-nhwc is for onnxruntime on cuda, not on cpu"),
    (RunOptions(cuda_graph=True), "--cuda-graph is for onnxruntime on cuda or tensorrt, not on cpu"),
    (RunOptions(tf32=True), "tf32"),
    (RunOptions(provider="cuda"), "--provider cuda and --device cpu contradict"),
    (RunOptions(provider="openvino"), "openvino"),  # type: ignore[arg-type]
])  # fmt: skip
def test_options_that_a_provider_does_not_have(
    exported: Callable[[Precision], Path], options: RunOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        open_session(exported("fp32"), torch.device("cpu"), options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_provider_without_a_gpu_is_an_error(exported: Callable[[Precision], Path], provider: str) -> None:
    with pytest.raises(BackendError, match="cuda"):
        open_model(str(exported("fp32")), options=RunOptions(provider=provider))  # type: ignore[arg-type]


def test_bf16_on_a_cpu_names_what_is_missing_and_where_it_is(exported: Callable[[Precision], Path]) -> None:
    with pytest.raises(BackendError, match=r"bf16\.onnx: onnxruntime has no kernel.*bf16 needs CUDA or TensorRT"):
        open_model(str(exported("bf16")), device="cpu")


def test_options_of_exported_files_are_refused_for_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for exported files, not for torch"):
        open_model("resnet20.nowhere", options=RunOptions(cuda_graph=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [
    RunOptions(), RunOptions(prefer_nhwc=True), RunOptions(cuda_graph=True), RunOptions(provider="tensorrt"),
    RunOptions(provider="tensorrt", cuda_graph=True),
])  # fmt: skip
def test_on_a_gpu_every_option_gives_the_cpus_scores(
    exported: Callable[[Precision], Path], in_turns: Callable[..., None], tmp_path: Path, options: RunOptions
) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu; this is the build for CPUs")
    if options.provider == "tensorrt":
        pytest.importorskip("tensorrt", reason="needs tensorrt 10")
    reference = open_model(str(exported("fp32")), device="cpu").backend
    model = open_model(str(exported("fp32")), device="cuda", options=replace(options, cache=tmp_path))
    for batch in (5, 2, 5):  # of a shape that was recorded before another one
        x_BCHW = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
        in_turns(model.backend, reference, x_BCHW, "pooled", rtol=1e-3, atol=1e-3)
