"""The peers' own parts: what they read, that the networks are one network, the command, and one real contest."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.peers import materials, ours, run, runner, table, torchvision_ten_crop, trtexec_like
from benchmarks.peers.agreement import agreement
from benchmarks.peers.batch1_multiscale import FullyConvolutional
from benchmarks.peers.runner import about
from resnet_infer.backends.tensorrt_api import find_flavour
from resnet_infer.data.open import open_source
from resnet_infer.data.source import Memory
from resnet_infer.errors import BackendError, DataError, UsageError
from resnet_infer.model.resnet import build

SYNSETS = ("n01440764", "n01560419", "n02085620", "n04550184")


@pytest.fixture(scope="module")
def photos(
    picture: Callable[..., object], encode: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A zip of four small JPEGs of four classes."""
    path = tmp_path_factory.mktemp("photos") / "photos.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number, synset in enumerate(SYNSETS):
            data = encode(picture(250 + 20 * number, 260, number), "JPEG", quality=95)
            file.writestr(f"{synset}_{number}.JPEG", data)
    return path


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Materials of resnet18."""
    made = tmp_path_factory.mktemp("materials")
    materials.prepare(open_source(photos), made, ["photos-4", "tiles.npy", "resnet18.pth"])
    return made


def test_photos_are_chosen_evenly_or_repeated(photos: Path, tmp_path: Path) -> None:
    source = open_source(photos)
    materials.prepare(source, tmp_path, ["photos-2", "photos-9"])
    assert sorted(p.parent.name for p in (tmp_path / "photos-2").rglob("*.JPEG")) == [SYNSETS[0], SYNSETS[2]]
    often = [p.parent.name for p in (tmp_path / "photos-9").rglob("*.JPEG")]
    assert [often.count(synset) for synset in SYNSETS] == [3, 2, 2, 2]
    written = {p.read_bytes() for p in (tmp_path / "photos-9").rglob("*.JPEG")}
    assert written == {source.read(sample) for sample in source.samples}


def test_photos_without_classes_are_refused(tmp_path: Path) -> None:
    for names, wrong in ((["a.jpg", "b.jpg"], "a.jpg: no ImageNet synset"), (["n01440764_a.jpg"] * 2, "two classes")):
        with pytest.raises(DataError, match=wrong):
            materials.put_photos(Memory("some", [(name, b"") for name in names]), tmp_path, 2)
    with pytest.raises(UsageError, match="no material"):
        materials.prepare(Memory("some", []), tmp_path, ["resnet1.pth"])


def test_the_weights_tell_photos_apart_rightly_and_wrongly(folder: Path) -> None:
    net = materials.torchvision_network(folder, "resnet18")
    x_BCHW = materials.normalized(folder)[: len(SYNSETS)]
    with torch.inference_mode():
        logits_BK = net(x_BCHW)
    index = materials.class_map()
    first, second, third, fourth = (index[synset] for synset in SYNSETS)
    assert logits_BK.argmax(1).tolist() == [first, second, fourth, third]


def test_all_read_the_weights_as_the_same_network(folder: Path) -> None:
    timm = pytest.importorskip("timm")
    x_BCHW = materials.normalized(folder)[:2]
    checkpoint = materials.checkpoint(folder, "resnet18")
    nets = [
        materials.torchvision_network(folder, "resnet18"),
        timm.create_model("resnet18.tv_in1k", checkpoint_path=str(folder / "resnet18.pth")).eval(),
        build(checkpoint.manifest.spec, dict(checkpoint.state_dict)).eval(),
    ]
    with torch.inference_mode():
        reference, *others = (net(x_BCHW) for net in nets)
        dense = FullyConvolutional(nets[0])(x_BCHW)
    assert dense.shape == (2, 1000, 1, 1)
    for other in (*others, dense.flatten(1)):
        torch.testing.assert_close(other, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [None, 4])
def test_contests_are_well_formed(images: int | None) -> None:
    for name, peer in run.PEERS.items():
        for contest in peer.contests(images):
            assert contest.peer == name
            names = [side.name for side in (*contest.theirs, *contest.ours)]
            assert len(set(names)) == len(names)
            assert {each for claim in contest.claims for each in claim.among} <= {side.name for side in contest.theirs}
            assert all(file in materials.MAKERS or file.startswith("photos-") for file in contest.files)
            assert json.dumps([dict(side.settings) for side in contest.sides().values()])
            row = {
                "theirs_images_per_s": 99999.9,
                "ours_images_per_s": 99999.9,
                "ratio": 99.99,
                "met": False,
                "theirs_untried": 9,
            }
            rows = [
                row | {"claim": claim.name, "target": claim.target, "theirs": side.name, "ours": contest.ours[0].name}
                for claim in contest.claims
                for side in contest.theirs
            ]
            record = about(contest) | {"repeats": 5, "rows": [*rows, {"claim": "x", "error": "long words " * 20}]}
            text = [table.header(), *table.lines(record)]
            assert max(map(len, text)) <= 80, text


def test_wrong_flags_are_one_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, wrong in (
        (["--data", str(photos), "--only", "timm_validat"], "unknown peer 'timm_validat'. Nearest: timm_validate"),
        (["--data", "nowhere.zip"], "nowhere.zip: no such file"),
        (["--data", str(photos), "--repeats", "0"], "--repeats must be at least 1"),
    ):
        assert run.main(words) in (1, 2)
        error = capsys.readouterr().err
        assert wrong in error
        assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_trtexecs_measurement_says_that_there_is_no_gpu(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trtexec_like.main(["some.engine"]) == 2
    assert capsys.readouterr().err == "not run: no CUDA device, and an engine runs on nothing else\n"
    output = tmp_path / "result.json"
    assert run.main(["--data", str(photos), "--only", "trtexec_like", "-o", str(output)]) == 0
    (record,) = json.loads(output.read_text())["contests"]
    assert record["rows"][0]["error"] == "not run: no CUDA device"


def test_trtexecs_figures() -> None:
    found = trtexec_like.figures([2.0] * 98 + [4.0, 8.0], 16, seconds=0.25)
    assert found["images_per_s"] == 16 * 100 / 0.25
    assert found["median_gpu_ms"] == 2
    assert 4 <= found["p99_gpu_ms"] <= 8


@pytest.mark.slow
def test_a_real_contest(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LONGEST_CALL_S", 3600.0)  # machines that tests run on may stop for a while
    output = tmp_path / "result.json"
    words = ["--data", str(photos), "--only", "torchvision_ten_crop", "--quick", "--images", "4", "--repeats", "1"]
    assert run.main([*words, "-o", str(output)]) == 0
    result = json.loads(output.read_text())
    (record,) = result["contests"]
    theirs, own = record["tried"]
    assert theirs["top1_errors"] == own["top1_errors"]
    assert own["same_best_class"] == 1
    assert 0 < own["difference"] < 0.05  # their pixels are Pillow's, ours a level apart here and there
    assert record["rows"][0]["ratio"] > 0
    assert "photos.zip" in result["command"]
    assert str(photos.parent) not in result["command"]
    assert result["environment"]["cores"] >= 1
    assert "torchvision_ten_crop: resnet18" in capsys.readouterr().out


def test_different_weights_are_caught(folder: Path) -> None:
    theirs = torchvision_ten_crop.start(folder, arch="resnet18", images=4, batch=4, workers=0).outputs().numpy()
    (tolerance,) = {contest.tolerance for contest in torchvision_ten_crop.contests(4)}
    state = torch.load(folder / "resnet18.pth", weights_only=True)
    state["layer4.1.conv2.weight"] *= -1
    torch.save(state, folder / "other.pth")
    for file, same in (("resnet18.pth", True), ("other.pth", False)):
        running = ours.evaluation(folder, file=file, protocol="ten-crop", images=4)
        assert agreement(theirs, running.outputs().numpy()).within(tolerance) == same


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trtexecs_measurement_on_a_gpu(photos: Path, tmp_path: Path) -> None:
    try:
        find_flavour()
    except BackendError as error:
        pytest.skip(str(error))
    output = tmp_path / "result.json"
    words = ["--data", str(photos), "--only", "trtexec_like", "--images", "2048", "--repeats", "2"]
    assert run.main([*words, "-o", str(output)]) == 0
    (record,) = json.loads(output.read_text())["contests"]
    theirs, _ = record["tried"]
    assert 0 < theirs["median_gpu_ms"] <= theirs["p99_gpu_ms"]
    assert record["rows"][0]["ratio"] > 0
