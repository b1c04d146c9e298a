"""A graph to a TensorRT plan: strongly typed, a profile for every size, a timing cache on disk, and Ctrl-C that works.

Sources: TensorRT developer guide and Python API (10.13 to 11.4), TensorRT-RTX 1.7. TensorRT 11 knows strongly typed
networks only and has no precision flags, so precision is the graph's; the same code builds on 10.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from resnet_infer.backends.tensorrt_api import make_log, read_network
from resnet_infer.errors import BackendError, UsageError
from resnet_infer.files import replacing
from resnet_infer.spec.engine_manifest import Capability, Flavour
from resnet_infer.spec.precisions import Layer
from resnet_infer.spec.shapes import ShapeRange

COMPATIBILITY = {"none": "NONE", "ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How TensorRT is to build."""

    flavour: Flavour
    profiles: tuple[ShapeRange, ...]
    optimization_level: int = 3
    """0 (quickest build) to 5 (longest search)."""
    workspace_mib: int | None = None
    """Scratch memory a layer may use; None leaves TensorRT's own limit, the whole device."""
    tf32: bool = False
    """Let fp32 products round their inputs to TF32."""
    version_compatible: bool = False
    """Runs on later TensorRT releases too, a little slower."""
    hardware_compatibility: str = "none"
    """none, ampere-plus or same-compute-capability."""
    capabilities: tuple[Capability, ...] = ()
    """TensorRT-RTX: GPUs to build for; none means its portable default."""
    cache: Path | None = None
    """Folder of kept engines and timings; None is this package's cache folder."""
    use_cache: bool = True

    def __post_init__(self) -> None:
        rtx = self.flavour == "tensorrt_rtx"
        if not 0 <= self.optimization_level <= 5:
            raise UsageError(f"--optimization-level must be 0..5; got {self.optimization_level}")
        if self.hardware_compatibility not in COMPATIBILITY:
            raise UsageError(
                f"--hardware-compatibility '{self.hardware_compatibility}' is not one of {', '.join(COMPATIBILITY)}"
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"--workspace must be at least 1 MiB; got {self.workspace_mib}")
        if rtx and (self.version_compatible or self.hardware_compatibility != "none"):
            raise UsageError(
                "--version-compatible and --hardware-compatibility are for tensorrt; an RTX engine runs on its own "
                "release only, and on the GPUs of --compute-capability"
            )
        if self.capabilities and not rtx:
            raise UsageError(
                "--compute-capability is for tensorrt-rtx; tensorrt builds for the GPU it runs on "
                "(--hardware-compatibility widens that)"
            )

    def to_dict(self) -> dict[str, Any]:
        """What decides the engine, for its key and its manifest; not the profiles, which have a place of their own."""
        return {
            "optimization_level": self.optimization_level,
            "workspace_mib": self.workspace_mib,
            "tf32": self.tf32,
            "version_compatible": self.version_compatible,
            "hardware_compatibility": self.hardware_compatibility,
            "capabilities": [list(capability) for capability in self.capabilities],
        }


Progress = Callable[[str, int, int], None]
"""Called with (phase, step, steps)."""


def build_plan(
    trt: Any, proto: onnx.ModelProto, options: BuildOptions, timing: Path | None, progress: Progress
) -> tuple[bytes, tuple[Layer, ...]]:
    """The serialised engine, and the layers of the network it was built from with the types they compute in.

    `timing` is a file of measured kernels that builds share. Raises BackendError with TensorRT's reason if it cannot
    parse or build the graph, UsageError for a GPU it does not build for, KeyboardInterrupt on Ctrl-C.
    """
    log = make_log(trt)
    builder = trt.Builder(log)
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(proto.SerializeToString()):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(min(2, parser.num_errors)))
        raise BackendError(f"{options.flavour} {trt.__version__} cannot parse the graph: {' '.join(reasons.split())}")
    layers = read_network(trt, network)
    config = _config(trt, builder, network.get_input(0), options)
    if timing is not None:
        known = timing.read_bytes() if timing.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    plan = _interruptible(trt, builder, network, config, progress)
    if plan is None:
        raise BackendError(f"{options.flavour} {trt.__version__} built no engine: {log.last('it gave no reason')}")
    if timing is not None:
        with replacing(timing) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan), layers


def _config(trt: Any, builder: Any, image: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # an engine that allocates as it runs cannot be recorded
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # lets the inspector state every layer's type
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * 2**20)
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on by default: fp32 would not be fp32
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    level = COMPATIBILITY[options.hardware_compatibility]
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.capabilities:
        config.num_compute_capabilities = len(options.capabilities)
        for index, (major, minor) in enumerate(options.capabilities):
            wanted = getattr(trt.ComputeCapability, f"SM{major}{minor}", None)
            if wanted is None or not config.set_compute_capability(wanted, index):
                numbers = sorted(int(n[2:]) for n in trt.ComputeCapability.__members__ if n.startswith("SM"))
                known = ", ".join(f"{number // 10}.{number % 10}" for number in numbers)
                raise UsageError(f"--compute-capability {major}.{minor}: {options.flavour} builds for {known}")
    sizes = tuple(image.shape)
    channels_last = sizes[-1] in (1, 3, 4) and sizes[1] not in (1, 3, 4)
    channels = sizes[-1] if channels_last else sizes[1]
    for wanted_range in options.profiles:
        profile = builder.create_optimization_profile()
        shapes = [
            (batch, height, width, channels) if channels_last else (batch, channels, height, width)
            for batch, height, width in (wanted_range.min, wanted_range.opt, wanted_range.max)
        ]
        profile.set_shape(image.name, *shapes)
        config.add_optimization_profile(profile)
    return config


def _interruptible(trt: Any, builder: Any, network: Any, config: Any, progress: Progress) -> Any:
    """Build in another thread: in the main one, where Python handles Ctrl-C, it would wait for TensorRT's end."""
    stopping = threading.Event()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # its base comes from the module at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self._steps.get(phase_name, 0))
            return not stopping.is_set()

    monitor = Monitor()  # TensorRT keeps no reference of its own
    config.progress_monitor = monitor
    plans: list[Any] = []
    thread = threading.Thread(target=lambda: plans.append(builder.build_serialized_network(network, config)))
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
    finally:
        stopping.set()
        thread.join()
    return plans[0] if plans else None
