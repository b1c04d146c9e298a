"""Configuration files of strangers: whatever stands in them, they are read, or refused in one line that names them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_infer.errors import CheckpointError
from resnet_infer.model.sidecars import MAX_BYTES, Sidecar, read_sidecar

TIMM: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 3,
    "global_pool": "avg",
    "model_args": {"num_classes": 3, "in_chans": 3},
    "label_names": ["a", "b", "c"],
    "label_descriptions": {"a": "x", "b": "y", "c": "z"},
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "label_offset": 0,
    },
}
TRANSFORMERS: dict[str, Any] = {
    "model_type": "resnet",
    "depths": [1, 1],
    "hidden_sizes": [32, 64],
    "embedding_size": 8,
    "num_channels": 3,
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
    "id2label": {"0": "a", "1": "b"},
}
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "crop_pct": 0.875,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
HUGE = st.sampled_from([10**400, -(10**400), 1e-310, 1e300])
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["lanczos", "avg", {}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def places(values: dict[str, Any]) -> list[tuple[str, ...]]:
    """The paths of all keys, those of inner objects too."""
    inner = [(key, *rest) for key, value in values.items() if isinstance(value, dict) for rest in places(value)]
    return [*((key,) for key in values), *inner]


@st.composite
def changed(draw: st.DrawFn, whole: dict[str, Any]) -> dict[str, Any]:
    """A file with up to two of its values replaced, or removed."""
    values: dict[str, Any] = json.loads(json.dumps(whole))
    for place in draw(st.lists(st.sampled_from(places(whole)), min_size=1, max_size=2)):
        inner: Any = values
        for key in place[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[place[-1]] = draw(ANY)
            if draw(st.booleans()) and inner[place[-1]] is None:
                del inner[place[-1]]
    return values


def read(folder: Path) -> Sidecar | None:
    """What is read, or None if it is refused as it must be."""
    try:
        return read_sidecar(folder / "model.safetensors")
    except CheckpointError as error:
        told = str(error)
    assert "\n" not in told
    assert str(folder) in told
    return None


@pytest.mark.parametrize("config", [TIMM, TRANSFORMERS], ids=["timm", "transformers"])
def test_the_files_as_they_are_are_read(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read(tmp_path)
    assert found is not None
    assert found.labels is not None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=changed(TIMM) | changed(TRANSFORMERS), processor=changed(PROCESSOR))
def test_any_value_is_read_or_refused(tmp_path: Path, config: dict[str, Any], processor: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    read(tmp_path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | ANY.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("name", ["config.json", "architecture", "architecture.json"])
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    read(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "architecture", "architecture.json"])
def test_a_file_without_end_is_refused(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(b"{")
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(CheckpointError, match=r"over 16,777,216 bytes"):
        read_sidecar(tmp_path / "model.safetensors")
