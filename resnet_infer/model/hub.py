"""Weights by name from the Hugging Face hub: `hf-hub:owner/name`, or `owner/name` where no such file is.

Fetched by huggingface_hub, so its cache, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE hold. All files are of one commit,
which is part of the model's source. Nothing but configuration files and weights is fetched, and no code is run.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_infer.errors import DownloadError, ResnetInferError, UsageError
from resnet_infer.model.sidecars import CONFIG, HUB_WEIGHTS, PROCESSOR, check_type
from resnet_infer.spec.registry import PUBLISHED
from resnet_infer.spec.timm_models import timm_models

PREFIXES = ("hf-hub:", "hf_hub:")
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_NAME = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A model's files in the hub's cache: those beside `weights` are of the same commit."""

    weights: Path
    source: str
    """`hf-hub:owner/name@commit`."""


def repository_of(model: str) -> tuple[str, str | None] | None:
    """(owner/name, revision or None) of a model on the hub; None for any other name.

    Raises UsageError for a name with the hub's prefix that is no repository's.
    """
    if card := None if model in PUBLISHED else timm_models().get(model):
        return card.repository, None
    prefix = next((prefix for prefix in PREFIXES if model.startswith(prefix)), "")
    match = _NAME.fullmatch(model.removeprefix(prefix))
    if prefix and not match:
        raise UsageError(f"{model}: is no repository's name; give hf-hub:owner/name or hf-hub:owner/name@revision")
    if not match or (not prefix and Path(model).exists()):
        return None
    return match[1], match[2]


def short_name(model: str) -> str:
    """A name for a file made from a model on the hub: its repository's, without owner and revision."""
    prefix = next((prefix for prefix in PREFIXES if model.startswith(prefix)), "")
    match = _NAME.fullmatch(model.removeprefix(prefix))
    return match[1].rsplit("/", 1)[1] if match else model


def fetch_named(model: str) -> Fetched | None:
    """The files of a model on the hub, fetched if they are not in the cache; None for a name that is no repository's.

    Raises DownloadError saying what is missing, CheckpointError for a model that is no ResNet, and UsageError for a
    name that cannot be one, or without huggingface_hub.
    """
    named = repository_of(model)
    if named is None:
        return None
    try:
        return fetch(*named)
    except DownloadError as error:
        if "/" not in model or model.startswith(PREFIXES):
            raise
        raise DownloadError(f"{model}: no such file here; and as a name on the hub, {error}") from error


def fetch(repository: str, revision: str | None = None) -> Fetched:
    """Weights and configuration of a repository, from the hub or from its cache; raises as `fetch_named`."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(f"hf-hub:{repository}: needs huggingface_hub: pip install 'resnet-infer[hub]'") from error
    commit, found = revision, {}
    for name in (CONFIG, PROCESSOR, *HUB_WEIGHTS):
        if name in HUB_WEIGHTS and any(weights in found for weights in HUB_WEIGHTS):
            break
        if path := _file(huggingface_hub, repository, name, commit, revision):
            found[name] = path
            commit = path.parent.name  # the cache keeps a commit's files in a folder of its name
            if name == CONFIG:
                check_type(path)
    weights = next((found[name] for name in HUB_WEIGHTS if name in found), None)
    if weights is None:
        raise DownloadError(
            f"hf-hub:{repository}: has no {' or '.join(HUB_WEIGHTS)}; "
            "download the weights file that it has, and give that"
        )
    return Fetched(weights=weights, source=f"hf-hub:{repository}@{commit}")


def _file(hub: Any, repository: str, name: str, commit: str | None, asked: str | None) -> Path | None:
    """One file in the cache; None if the repository does not have it."""
    from huggingface_hub import _CACHED_NO_EXIST, constants, errors

    where = f"hf-hub:{repository}" + (f"@{asked}" if asked else "")
    endpoint = constants.ENDPOINT
    try:
        return Path(hub.hf_hub_download(repository, name, revision=commit))
    except errors.LocalEntryNotFoundError as error:
        if hub.try_to_load_from_cache(repository, name, revision=commit) is _CACHED_NO_EXIST:
            return None
        if constants.HF_HUB_OFFLINE:
            if name in HUB_WEIGHTS[:1] and isinstance(
                hub.try_to_load_from_cache(repository, HUB_WEIGHTS[1], revision=commit), str
            ):
                return None
            raise DownloadError(
                f"{where}: {name} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it; "
                "unset it once, with a network"
            ) from error
        cause = error.__cause__ or error
        raise DownloadError(
            f"{where}: {name} cannot be fetched from {endpoint} ({_line(cause)}); try again with a network, "
            "or give a file that is here"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{where}: has no such revision; give a branch, a tag or a commit that it has") from error
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{where}: is gated: accept its terms on {endpoint}/{repository}, and log in with `hf auth login` "
            "or HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{where}: no such repository on {endpoint}, or a private one; check the name, and for a private one log "
            "in with `hf auth login` or HF_TOKEN"
        ) from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise DownloadError(
                f"{where}: {endpoint} refuses the token it was given ({code}); log in again with `hf auth login`, "
                "or mend or unset HF_TOKEN"
            ) from error
        raise DownloadError(f"{where}: {endpoint} answers {code} for {name}; try again later") from error
    except ResnetInferError:
        raise
    except Exception as error:  # its HTTP library's own, which differ between its releases
        raise DownloadError(
            f"{where}: {name} cannot be fetched from {endpoint} ({_line(error)}); try again, "
            "or give a file that is here"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
