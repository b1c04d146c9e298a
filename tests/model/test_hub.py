"""Weights from a hub that is served here: timm's and transformers' own files, pinned, offline, and every refusal."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from served_hub import TOKEN, Hub, serving
from timm.models import save_for_hf
from torch import Tensor, nn

from resnet_infer.errors import CheckpointError, DownloadError
from resnet_infer.model.checkpoints import Overrides, load_checkpoint, save_checkpoint
from resnet_infer.model.resnet import ResNet, build
from resnet_infer.spec.labels import Labels, imagenet1k
from resnet_infer.spec.manifest import Manifest
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.timm_models import timm_models

NAME = "timm/resnet18.a1_in1k"
MICROSOFT = "microsoft/resnet-tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with an empty cache for it. HF_ENDPOINT and its like are read when huggingface_hub is imported."""
    with serving() as served:
        monkeypatch.setenv("no_proxy", "*")
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def timms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, bytes]]:
    """A random resnet18 of three classes as timm saves one for the hub."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    net = timm.create_model("resnet18.a1_in1k", num_classes=3).eval()
    save_for_hf(net, folder, model_config={"label_names": ["cat", "dog", "fish"]}, safe_serialization="both")
    return net, files_of(folder)


@pytest.fixture(scope="module")
def transformers_own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, bytes]]:
    """A small random ResNet of five classes that strides in its first 1x1, with its processor, as it saves them."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[32, 64, 128],
        depths=[1, 2, 1],
        downsample_in_bottleneck=True,
        id2label={i: f"kind {i}" for i in range(5)},
    )
    net = transformers.ResNetForImageClassification(config).eval()
    net.save_pretrained(folder)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.8, resample=2)
    processor.save_pretrained(folder)
    return net, files_of(folder)


@torch.inference_mode()
def assert_same_logits(theirs: nn.Module, name: str, side: int = 64, overrides: Overrides | None = None) -> None:
    loaded = load_checkpoint(name, overrides)
    x_BCHW = torch.rand(2, 3, side, side)
    expected = theirs(x_BCHW)
    logits: Tensor = expected if isinstance(expected, Tensor) else expected.logits
    actual = build(loaded.manifest.spec, dict(loaded.state_dict)).eval()(x_BCHW)
    assert float((actual - logits).abs().max() / logits.abs().max()) < 1e-5


@pytest.mark.parametrize("name", [f"hf-hub:{NAME}", f"hf_hub:{NAME}", NAME, "resnet18.a1_in1k"])
def test_a_model_of_timm_is_loaded_by_name(
    hub: Hub, timms: tuple[Any, dict[str, bytes]], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    net, files = timms
    commit = hub.commit(NAME, files)
    assert_same_logits(net, name)
    told = capsys.readouterr().err
    assert "architecture resnet18, preprocessing (timm's test setting, 288 of 288 pixels; trained at 224)" in told
    assert told.count("resnet-infer:") == 1
    loaded = load_checkpoint(name)
    assert loaded.name == name
    assert loaded.manifest.source == f"hf-hub:{NAME}@{commit}"
    assert loaded.manifest.source_sha256 == loaded.sha256
    assert loaded.manifest.preprocessing == timm_models()["resnet18.a1_in1k"].preprocessing
    assert loaded.manifest.labels == Labels(names=("cat", "dog", "fish"))
    assert set(loaded.manifest.extra["described_by"]["files"]) == {"config.json"}
    assert Manifest.from_json(loaded.manifest.to_json(), "here") == loaded.manifest


def test_a_model_of_transformers_is_loaded_by_name(
    hub: Hub, transformers_own: tuple[Any, dict[str, bytes]], tmp_path: Path
) -> None:
    net, files = transformers_own
    commit = hub.commit(MICROSOFT, files)
    assert_same_logits(net, f"hf-hub:{MICROSOFT}")
    loaded = load_checkpoint(MICROSOFT).manifest
    assert (loaded.spec.stride_in, loaded.spec.widths) == ("first", (8, 16, 32))
    assert loaded.preprocessing == Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, resize=80, crop=64)
    assert loaded.labels == Labels(names=tuple(f"kind {i}" for i in range(5)))
    assert loaded.source == f"hf-hub:{MICROSOFT}@{commit}"
    for name, data in files.items():  # and the same as files in a folder
        (tmp_path / name).write_bytes(data)
    assert_same_logits(net, str(tmp_path / "model.safetensors"))
    local = load_checkpoint(str(tmp_path / "model.safetensors")).manifest
    assert (local.spec, local.preprocessing, local.labels) == (loaded.spec, loaded.preprocessing, loaded.labels)


def test_pickled_weights_are_taken_where_there_are_no_others(hub: Hub, timms: tuple[Any, dict[str, bytes]]) -> None:
    net, files = timms
    hub.commit(NAME, {name: data for name, data in files.items() if name != "model.safetensors"})
    assert_same_logits(net, NAME)
    assert load_checkpoint(NAME).file.name == "pytorch_model.bin"  # type: ignore[union-attr]


def test_all_files_are_of_the_revision_that_was_asked_for(hub: Hub, timms: tuple[Any, dict[str, bytes]]) -> None:
    _, files = timms
    config = json.loads(files["config.json"])
    config["pretrained_cfg"]["test_input_size"] = [3, 160, 160]
    old = hub.commit(NAME, {**files, "config.json": json.dumps(config).encode()}, ref="v1")
    new = hub.commit(NAME, files)
    for revision, commit, crop in (("", new, 288), ("@v1", old, 160), (f"@{old}", old, 160), ("@main", new, 288)):
        loaded = load_checkpoint(f"hf-hub:{NAME}{revision}").manifest
        assert (loaded.source, loaded.preprocessing.crop) == (f"hf-hub:{NAME}@{commit}", crop)
    with pytest.raises(DownloadError, match=rf"hf-hub:{NAME}@v9: has no such revision"):
        load_checkpoint(f"{NAME}@v9")


def test_offline_the_cache_is_enough(
    hub: Hub, timms: tuple[Any, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, files = timms
    hub.commit(NAME, files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"config\.json is not in the hub's cache, and HF_HUB_OFFLINE forbids"):
        load_checkpoint(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    commit = load_checkpoint(NAME).manifest.source.rsplit("@", 1)[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    for name in (NAME, f"{NAME}@{commit}"):
        assert_same_logits(net, name)
    assert hub.asked == []


def test_offline_without_the_processor_is_refused(
    hub: Hub, transformers_own: tuple[Any, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that another program fetched without their preprocessing would be fed something else in silence."""
    hub.commit(MICROSOFT, transformers_own[1])
    for name in ("config.json", "model.safetensors"):
        huggingface_hub.hf_hub_download(MICROSOFT, name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"preprocessor_config\.json is not in the hub's cache"):
        load_checkpoint(MICROSOFT)


@pytest.mark.parametrize(
    ("name", "token", "told"),
    [
        ("timm/absent", None, "timm/absent: no such repository on http.*or a private one"),
        ("timm/absent", TOKEN, "timm/absent: no such repo"),
        ("private/net", None, "private/net: no such repository .*or a private one"),
        ("gated/net", None, "gated/net: is gated: accept its terms"),
        (NAME, "hf_wrong", r"refuses the token it was given \(401\)"),
        ("timm/empty", None, r"has no model\.safetensors or pytorch_model\.bin"),
    ],
)
def test_a_refusal_is_one_line(
    hub: Hub,
    timms: tuple[Any, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    token: str | None,
    told: str,
) -> None:
    for repository in (NAME, "private/net", "gated/net"):
        hub.commit(repository, timms[1])
    hub.commit("timm/empty", {"README.md": b""})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match=told) as caught:
        load_checkpoint(f"hf-hub:{name}")
    assert "\n" not in str(caught.value)


def test_a_token_opens_what_is_private(
    hub: Hub, timms: tuple[Any, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit("private/net", timms[1])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_same_logits(timms[0], "private/net")


def test_a_hub_that_is_down_or_away_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.broken = 404
    with pytest.raises(DownloadError, match=rf"{NAME}: .*http://127"):
        load_checkpoint(NAME)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # it waits before every new try
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(DownloadError, match=r"config\.json cannot be fetched from http.*try again with a network"):
        load_checkpoint(NAME)


def test_what_is_no_resnet_is_refused_by_its_configuration(hub: Hub, timms: tuple[Any, dict[str, bytes]]) -> None:
    _, files = timms
    for config, told in (
        ({"model_type": "vit"}, r"config\.json: describes a model of type 'vit', not a ResNet"),
        ({"architecture": "vit_tiny_patch16_224"}, r"config\.json: unknown architecture 'vit_tiny_patch16_224'"),
        ({"architecture": "resnet34"}, r"config\.json: says resnet34, which these weights are not: .*missing"),
        ({"architecture": "resnet18", "num_classes": 4}, r"config\.json: says 4 classes, but .* has 3"),
        ({"model_type": "resnet"}, r"config\.json: says resnet50, which these weights are not: .*missing"),
    ):
        hub.commit(NAME, {**files, "config.json": json.dumps(config).encode()})
        with pytest.raises(CheckpointError, match=told):
            load_checkpoint(NAME)


def test_our_own_file_on_the_hub_keeps_what_it_says(hub: Hub, small_net: ResNet, tmp_path: Path) -> None:
    manifest = Manifest(spec=small_net.spec, preprocessing=Preprocessing(resize=40, crop=32), source="recipe")
    save_checkpoint(tmp_path / "model.safetensors", small_net.state_dict(), manifest)
    commit = hub.commit("me/net", files_of(tmp_path) | {"config.json": b'{"architecture": "resnet50"}'})
    loaded = load_checkpoint("me/net").manifest
    assert (loaded.spec, loaded.preprocessing) == (manifest.spec, manifest.preprocessing)
    assert loaded.source == f"hf-hub:me/net@{commit}"
    assert loaded.source_sha256


def test_the_hubs_environment_variables_hold(hub: Hub, timms: tuple[Any, dict[str, bytes]], tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, in a process of its own, as they are read at its start."""
    hub.commit(NAME, timms[1])
    command = [sys.executable, "-m", "resnet_infer", "info", f"hf-hub:{NAME}"]
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "no_proxy": "*"}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "hf-hub:timm/resnet18.a1_in1k@" in first.stdout.replace("\n", "").replace(" ", "")
    hub.asked.clear()
    offline = subprocess.run(command, env={**environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert (offline.returncode, offline.stdout) == (0, first.stdout)
    assert hub.asked == []


def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(hub: Hub) -> None:
    hub.commit("big/llama", {"config.json": b'{"model_type": "llama"}', "model.safetensors": bytes(1000)})
    with pytest.raises(CheckpointError, match=r"config\.json: describes a model of type 'llama', not a ResNet"):
        load_checkpoint("hf-hub:big/llama")
    assert [path for path in hub.asked if "safetensors" in path] == []


def test_a_mistyped_file_is_told_as_one(hub: Hub) -> None:
    with pytest.raises(DownloadError, match=r"^runs/best: no such file here; .*hf-hub:runs/best: no such repository"):
        load_checkpoint("runs/best")


def test_labels_of_imagenet_are_kept_for_a_thousand_classes(hub: Hub, tmp_path: Path) -> None:
    net = timm.create_model("resnet18.gluon_in1k")
    save_for_hf(net, tmp_path, safe_serialization=True)
    hub.commit("timm/resnet18.gluon_in1k", files_of(tmp_path))
    loaded = load_checkpoint("resnet18.gluon_in1k", Overrides(mean=(0.5, 0.5, 0.5))).manifest
    assert loaded.labels == imagenet1k()
    assert loaded.preprocessing == Preprocessing(mean=(0.5, 0.5, 0.5), interpolation="bicubic")
