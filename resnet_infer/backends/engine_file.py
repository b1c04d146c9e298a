"""An engine on disk: a plain plan and its manifest beside it, written and read as one."""

import hashlib
from pathlib import Path

from resnet_infer.errors import ArtifactError, UsageError
from resnet_infer.files import replacing
from resnet_infer.spec.engine_manifest import EngineRecord, check_file, record_path
from resnet_infer.spec.manifest import MAX_BYTES


def read_engine(path: Path, *, verify: bool = True) -> tuple[EngineRecord, bytes]:
    """An engine's manifest and its plan, known to belong together.

    Raises UsageError if the file is missing, ArtifactError if its manifest is, or if the plan is truncated or another.
    """
    record = read_record(path, verify=verify)
    plan = path.read_bytes()
    check_file(record, path, len(plan), hashlib.sha256(plan).hexdigest())
    return record, plan


def read_record(path: Path, *, verify: bool = True) -> EngineRecord:
    """The manifest beside an engine; raises UsageError without the engine, ArtifactError without a valid manifest."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    beside = record_path(path)
    try:
        with beside.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path}: its manifest {beside.name} is not beside it or cannot be read; an engine is used with the "
            "manifest that `resnet-infer export --to tensorrt` wrote"
        ) from error
    return EngineRecord.from_json(text, str(beside), verify=verify)


def write_engine(record: EngineRecord, plan: bytes, path: Path) -> None:
    """Write both beside their places, then put both in place: a full disk leaves an older pair as it was."""
    with replacing(record_path(path)) as partial_record, replacing(path) as partial_plan:
        partial_record.write_text(record.to_json(), "utf-8")
        partial_plan.write_bytes(plan)
