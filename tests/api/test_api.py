"""The Python API: what README shows runs, and images in memory score as their files do."""

import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resnet_infer as ri
from resnet_infer.data.source import Memory
from resnet_infer.pipeline.decode import decode
from resnet_infer.spec.labels import CIFAR10_NAMES

ROOT = Path(__file__).parents[2]
MODEL = "resnet20.cifar10"


@pytest.fixture(scope="module")
def model() -> ri.Model:
    return ri.load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, picture: Callable[..., Any]) -> Path:
    """photos/, and val/ and train/ of one folder a class."""
    root = tmp_path_factory.mktemp("images")
    (root / "photos").mkdir()
    for number in range(3):
        Image.fromarray(picture(40 + number, 50, number)).save(root / "photos" / f"{number}.png")
    for part, count in (("val", 2), ("train", 8)):
        for index, name in enumerate(CIFAR10_NAMES):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                seed = 1000 * count + 100 * index + number
                Image.fromarray(picture(32, 32, seed)).save(root / part / name / f"{number}.png")
    return root


def readme_section() -> str:
    section = (ROOT / "README.md").read_text("utf-8").split("## In Python", 1)[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def test_readmes_section_runs(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders)
    names: dict[str, Any] = {}
    exec(compile(readme_section().replace('"auto"', '"cpu"'), "README.md", "exec"), names)
    assert [row.protocol for row in names["rows"]] == ["single-crop", "ten-crop", "multiscale"]
    assert all(row.images == 20 for row in names["rows"])
    assert names["probs"].shape == (3, 10)
    assert names["probs"].dtype == torch.float32
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert 0 <= float(lines[-1]) <= 1
    assert Path("net.int8.onnx").is_file()


def test_importing_is_cheap() -> None:
    code = (
        "import time, sys; begun = time.perf_counter(); import resnet_infer as ri; "
        "taken = time.perf_counter() - begun; heavy = {'torch', 'numpy', 'onnx', 'PIL'} & set(sys.modules); "
        "print(heavy or '', taken); ri.load"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy, _, taken = done.stdout.partition(" ")
    assert not heavy
    assert float(taken) < 0.5  # 0.02 s on a quiet machine


def test_all_names_are_there_and_sorted() -> None:
    assert ri.__all__ == sorted(ri.__all__)
    assert {*ri.__all__} == {*ri._HOMES, *ri._MODULES, "__version__"}
    assert dir(ri) == ri.__all__
    for name in ri.__all__:
        assert getattr(ri, name) is not None
        assert name == "__version__" or getattr(ri, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ri.nothing
    import resnet_infer.exporters.to_onnx  # noqa: F401  # a submodule must not take a function's place

    assert all(callable(getattr(ri, name)) for name in ("export", "predict", "evaluate", "score", "compare", "load"))


def rotated(image: Image.Image) -> bytes:
    exif = image.getexif()
    exif[274] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def lossless(picture: Callable[..., Any]) -> dict[str, bytes]:
    """One picture in many lossless forms."""
    plain = Image.fromarray(picture(45, 61))
    deep = Image.fromarray((np.asarray(plain.convert("L")).astype(np.uint16) << 8) | 7)
    alpha = plain.copy()
    alpha.putalpha(Image.fromarray(picture(45, 61, 1)[..., 0]))
    return {
        "rgb.png": saved(plain),
        "grey.png": saved(plain.convert("L")),
        "palette.png": saved(plain.convert("P")),
        "alpha.png": saved(alpha),
        "grey16.png": saved(deep),
        "rotated.png": rotated(plain),
        "rgb.bmp": saved(plain, "BMP"),
        "rgb.tif": saved(plain, "TIFF", compression="tiff_lzw"),
        "rgb.webp": saved(plain, "WEBP", lossless=True),
        "rgb.gif": saved(plain, "GIF"),
    }


@pytest.mark.parametrize("protocol", ["single-crop", "ten-crop", "multiscale"])
def test_images_in_memory_score_as_their_files_to_the_bit(
    model: ri.Model, lossless: dict[str, bytes], protocol: str, tmp_path: Path
) -> None:
    files = []
    for name, data in lossless.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(data)
    expected_NK = ri.score(model, files, protocol=protocol)
    decoded = [decode(data) for data in lossless.values()]
    forms: dict[str, list[Any]] = {
        "Pillow": [Image.open(io.BytesIO(data)) for data in lossless.values()],
        "NumPy": [x_CHW.permute(1, 2, 0).numpy() for x_CHW in decoded],
        "PyTorch": decoded,
        "mixed": [files[0], decoded[1], *files[2:4], *(x_CHW.permute(1, 2, 0).numpy() for x_CHW in decoded[4:])],
    }
    for images in forms.values():
        assert torch.equal(ri.score(model, images, protocol=protocol), expected_NK)
    alone_NK = ri.score(model, files[0], protocol=protocol)
    assert torch.equal(ri.score(model, decoded[0], protocol=protocol), alone_NK)
    workers = ri.Loading(workers=1, batch_size=2)
    torch.testing.assert_close(ri.score(model, decoded, protocol=protocol, loading=workers), expected_NK)


def test_an_array_of_several_images_is_several_images(model: ri.Model, picture: Callable[..., Any]) -> None:
    x_NHWC = np.stack([picture(32, 32, seed) for seed in range(4)])
    expected_NK = ri.score(model, list(x_NHWC))
    assert torch.equal(ri.score(model, x_NHWC), expected_NK)
    assert torch.equal(ri.score(model, torch.from_numpy(x_NHWC).permute(0, 3, 1, 2)), expected_NK)
    assert [image.path for image in ri.predict(model, x_NHWC)] == [f"image {number}" for number in range(4)]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), r"image 0: is float32 of shape \(8, 8, 3\); give RGB as uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"\(height, width, 3\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"\(3, height, width\)"),
        ([np.zeros((8, 8), np.uint8)], r"image 0: is uint8 of shape \(8, 8\)"),
        ([b"bytes"], "image 0: is bytes; give a path, or a Pillow"),
        ([], "no images in the list"),
        (7, "images are paths"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(model: ri.Model, images: Any, words: str) -> None:
    with pytest.raises(ri.ResnetInferError, match=words) as caught:
        ri.score(model, images)
    assert "\n" not in str(caught.value)


def test_an_image_without_a_range_is_named(model: ri.Model, picture: Callable[..., Any]) -> None:
    images = [Image.fromarray(picture(32, 32)), Image.fromarray(np.zeros((32, 32), np.float32))]
    with pytest.raises(ri.errors.ImageError, match="image 1: floating-point pixels have no agreed range"):
        ri.score(model, images)


def test_unreadable_images_are_told(model: ri.Model, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    good, bad = ri.predict(model, [folders / "photos" / "0.png", tmp_path / "broken.png"])
    assert good.best.prob == max(guess.prob for guess in good.predictions)
    assert not bad.predictions
    with pytest.raises(ri.errors.DataError, match=r"broken\.png: "):
        _ = bad.best
    with pytest.raises(ri.errors.DataError, match=r"broken\.png: .*leave it out"):
        ri.score(model, tmp_path)


def test_predictions_are_read_back_and_resumed(model: ri.Model, folders: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    (row,) = ri.evaluate(model, folders / "val", predictions=file)
    records = ri.predictions.read(file).records["single-crop"]
    assert sum(record.rank != 0 for record in records) == row.top1_errors == row.to_dict()["top1_errors"]
    (again,) = ri.evaluate(model, folders / "val", predictions=file, resume=True)
    assert (again.resumed, again.top1_errors) == (20, row.top1_errors)


def test_tests_follow_the_models_preprocessing(model: ri.Model) -> None:
    assert ri.ten_crop().for_model(model).crop == 32
    assert ri.single_crop(resize=36, crop=32).for_model(model).scales == (36,)
    assert ri.multi_scale(average="gap", mirror=False).for_model(model).head == "pooled"
    with pytest.raises(ri.errors.UsageError, match="unknown protocol 'eleven-crop'"):
        ri.score(model, "x.png", protocol="eleven-crop")


def test_an_ensemble_and_a_source_of_ones_own(model: ri.Model, folders: Path) -> None:
    with ri.load(MODEL, device="cpu") as other:
        rows = ri.evaluate([model, other], folders / "val", weights=(1, 2))
    assert [row.top1_errors for row in rows] == [rows[0].top1_errors] * 3
    own = Memory("mine", [("a", (folders / "photos" / "0.png").read_bytes())])
    assert [image.path for image in ri.predict(model, own)] == ["a"]


def test_exports_are_checked_and_what_cannot_be_exported_is_refused(
    model: ri.Model, folders: Path, tmp_path: Path
) -> None:
    manifest = ri.export(MODEL, tmp_path / "net.onnx", precision="fp16", head="dense")
    assert (manifest.precision, manifest.head) == ("fp16", "dense")
    with ri.load(tmp_path / "net.onnx", device="cpu") as exported:
        with pytest.raises(ri.errors.UsageError, match="is an export already"):
            ri.export(exported, tmp_path / "again.onnx")
        torch.testing.assert_close(
            ri.score(exported, folders / "photos"), ri.score(model, folders / "photos"), atol=1e-2, rtol=0
        )
    with pytest.raises(ri.errors.UsageError, match=r"must end in \.onnx or \.engine"):
        ri.export(model, tmp_path / "net.pb")
    with pytest.raises(ri.errors.UsageError, match="needs images to calibrate on"):
        ri.export(model, tmp_path / "net.onnx", precision="int8")


def test_a_comparison_opens_and_closes_what_it_was_named(model: ri.Model, folders: Path) -> None:
    found = ri.compare(model, MODEL, folders / "val", protocol="ten-crop")
    assert (found.p_value, found.agreement["top1_agreement"]) == (1.0, 1.0)
    assert found.images == 20


@pytest.mark.slow
def test_a_wheel_in_a_clean_folder_runs_the_section(folders: Path, tmp_path: Path) -> None:
    """Packed as a wheel and imported from it alone, with this environment's libraries."""
    built = subprocess.run(
        ["uv", "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT)], capture_output=True, text=True, check=False
    )
    if built.returncode:
        pytest.skip("uv cannot build a wheel here")
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    section = readme_section().replace('"auto"', '"cpu"').replace("net.int8", "wheel.int8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{section}\nprint(ri.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folders, capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(str(tmp_path / "site"))
