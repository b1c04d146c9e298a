"""Files of ours are known again, to the bit; whatever is another file is said to be one."""

import json
import random
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from resnet_infer.backends.load import open_model
from resnet_infer.cli import app
from resnet_infer.errors import ArtifactError, CheckpointError, ResnetInferError
from resnet_infer.exporters.to_onnx import export_onnx
from resnet_infer.model.checkpoints import Checkpoint, Overrides, load_checkpoint, save_checkpoint
from resnet_infer.verify import verify

UNVERIFIED = Overrides(verify=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file and an export."""
    folder = tmp_path_factory.mktemp("files")
    checkpoint = load_checkpoint("resnet20.cifar10")
    save_checkpoint(folder / "net.safetensors", checkpoint.state_dict, checkpoint.manifest)
    export_onnx(checkpoint, folder / "net.onnx")
    return folder


def test_files_as_they_were_written_are_verified(folder: Path) -> None:
    assert verify(folder / "net.safetensors").checked[-1] == "checksums of weights and manifest"
    assert verify(folder / "net.onnx").checked[-1] == "checksums of graph and manifest"
    assert not any(verify(folder / name).problem for name in ("net.safetensors", "net.onnx"))


def test_no_flipped_bit_of_weights_is_another_network(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "net.safetensors").read_bytes()
    before = load_checkpoint(str(folder / "net.safetensors"))
    path = tmp_path / "net.safetensors"
    rng = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*rng.sample(range(header), 150), *rng.sample(range(header, len(whole)), 50)]
    for at in places:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            after = load_checkpoint(str(path))
        except (CheckpointError, ArtifactError):
            assert verify(path).problem
            continue
        assert same(before, after)


def same(before: Checkpoint, after: Checkpoint) -> bool:
    return before.manifest == after.manifest and all(
        torch.equal(value, after.state_dict[name]) for name, value in before.state_dict.items()
    )


def test_no_flipped_bit_of_an_export_is_another_network(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "net.onnx").read_bytes()
    path = tmp_path / "net.onnx"
    x_BCHW = torch.rand(2, 3, 32, 32)
    with open_model(str(folder / "net.onnx"), device="cpu") as model:
        manifest, scores = model.manifest, model.backend.run(x_BCHW, "pooled")
    rng = random.Random(0)
    refused = 0
    for at in rng.sample(range(len(whole)), 60):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            with open_model(str(path), device="cpu") as model:
                assert model.manifest == manifest
                assert torch.equal(model.backend.run(x_BCHW, "pooled"), scores)
        except ResnetInferError:
            refused += 1
    assert refused > 40


def test_what_another_tool_changed_runs_only_when_it_is_told_to(folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / "net.onnx")
    weights = proto.graph.initializer[0]
    weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(proto, tmp_path / "net.onnx")
    with pytest.raises(ArtifactError, match=r"its graph is not the one .*--no-verify"):
        open_model(str(tmp_path / "net.onnx"), device="cpu")
    open_model(str(tmp_path / "net.onnx"), device="cpu", overrides=UNVERIFIED).close()
    checkpoint = load_checkpoint(str(folder / "net.safetensors"))
    import safetensors.torch

    from resnet_infer.spec.manifest import KEY

    changed = {name: value + 1 for name, value in checkpoint.state_dict.items()}
    text = checkpoint.manifest.to_json()
    safetensors.torch.save_file(changed, tmp_path / "net.safetensors", metadata={KEY: text})
    with pytest.raises(CheckpointError, match=r"its weights are not those .*--no-verify"):
        load_checkpoint(str(tmp_path / "net.safetensors"))
    assert load_checkpoint(str(tmp_path / "net.safetensors"), UNVERIFIED).sha256
    values = json.loads(text)
    values["preprocessing"]["mean"][0] = 0.5
    safetensors.torch.save_file(
        dict(checkpoint.state_dict), tmp_path / "other.safetensors", metadata={KEY: json.dumps(values)}
    )
    with pytest.raises(ArtifactError, match="damaged or changed by hand"):
        load_checkpoint(str(tmp_path / "other.safetensors"))


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: Any) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["resnet-infer", "verify", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                app.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    code, out, err = run(folder / "net.onnx", folder / "net.safetensors")
    assert (code, err) == (0, "")
    assert out.count("ok ") == 2
    assert "fp32 proven by" in out
    (tmp_path / "cut.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:-9])
    code, out, err = run(folder / "net.onnx", tmp_path / "cut.safetensors")
    assert code == 3
    assert "FAILED" in out
    assert err.strip().endswith("1 of 2 are not what was written (listed above)")
    assert run(tmp_path / "none.onnx")[0] == 2
    (tmp_path / "notes.md").write_text("x")
    assert run(tmp_path / "notes.md")[0] == 2
    code, out, _ = run(folder / "net.onnx", "--format", "json")
    assert json.loads(out)[0]["problem"] == ""
