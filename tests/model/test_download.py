"""Published weights are fetched whole and right, or not at all."""

import hashlib
import os
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import torchvision

from resnet_infer.errors import DownloadError, UsageError
from resnet_infer.files import sha256_of
from resnet_infer.model.checkpoints import Overrides, load_checkpoint
from resnet_infer.model.download import MIRROR, HttpsOnly, weights_file
from resnet_infer.spec.catalogue import spec_from_name
from resnet_infer.spec.labels import imagenet1k
from resnet_infer.spec.preprocessing import Preprocessing
from resnet_infer.spec.registry import PUBLISHED, Published

CONTENT = bytes(range(256)) * 5000  # more than one chunk
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CARD = Published(
    key="resnet18.test",
    architecture="resnet18",
    url=f"https://127.0.0.1:9/resnet18-{DIGEST[:8]}.pth",
    sha256_prefix=DIGEST[:8],
    preprocessing=Preprocessing(),
    single_crop=(30.0, 10.0),
)
"""A small file of a publisher whose host refuses every connection."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no mirror, hub or proxy."""
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(MIRROR, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that serves as the publisher's; its name has a space."""
    folder = tmp_path / "the mirror"
    folder.mkdir()
    monkeypatch.setenv(MIRROR, folder.as_uri())
    return folder


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    for content in (b"", b"a", CONTENT):
        (tmp_path / "file").write_bytes(content)
        assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_once_and_kept_under_its_own_name(cache: Path, mirror: Path) -> None:
    (mirror / CARD.filename).write_bytes(CONTENT)
    umask = os.umask(0o022)
    assert weights_file(CARD) == cache / CARD.filename
    os.umask(umask)
    assert (cache / CARD.filename).stat().st_mode & 0o777 == 0o644  # others on the machine may read it
    assert (cache / CARD.filename).read_bytes() == CONTENT
    assert kept(cache) == [CARD.filename]
    (mirror / CARD.filename).unlink()
    assert weights_file(CARD) == cache / CARD.filename


@pytest.mark.parametrize("content", [b"", b"other weights", CONTENT[:-1], CONTENT + b"\0"])
def test_bytes_that_are_not_the_published_ones_are_not_kept(cache: Path, mirror: Path, content: bytes) -> None:
    (mirror / CARD.filename).write_bytes(content)
    given = hashlib.sha256(content).hexdigest()[:8]
    with pytest.raises(DownloadError, match=rf"{given}.*resnet18\.test is {DIGEST[:8]}"):
        weights_file(CARD)
    assert kept(cache) == []


def test_a_wrong_file_does_not_replace_what_is_in_the_cache(cache: Path, mirror: Path) -> None:
    cache.mkdir()
    (cache / CARD.filename).write_bytes(b"put here by hand")
    (mirror / CARD.filename).write_bytes(b"wrong too")
    with pytest.raises(DownloadError):
        weights_file(CARD)
    assert (cache / CARD.filename).read_bytes() == b"put here by hand"
    assert kept(cache) == [CARD.filename]


def test_a_damaged_file_in_the_cache_is_fetched_anew(cache: Path, mirror: Path) -> None:
    cache.mkdir()
    (cache / CARD.filename).write_bytes(CONTENT[:1000])
    (mirror / CARD.filename).write_bytes(CONTENT)
    assert weights_file(CARD).read_bytes() == CONTENT
    assert kept(cache) == [CARD.filename]


def test_an_unreachable_host_names_the_place_to_put_the_file(cache: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        weights_file(CARD)
    message = str(caught.value)
    for word in (CARD.key, CARD.url, str(cache / CARD.filename), MIRROR):
        assert word in message
    assert len(message.splitlines()) == 1
    assert kept(cache) == []


def test_an_unreachable_mirror_is_the_one_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, "https://127.0.0.1:9/mirror/")
    with pytest.raises(DownloadError, match=f"https://127.0.0.1:9/mirror/{CARD.filename}"):
        weights_file(replace(CARD, url="https://127.0.0.2:9/" + CARD.filename))


def test_a_mirror_without_the_file_is_a_download_error(cache: Path, mirror: Path) -> None:
    with pytest.raises(DownloadError, match=CARD.filename):
        weights_file(CARD)
    assert kept(cache) == []


def test_a_file_in_the_cache_needs_no_network(cache: Path) -> None:
    cache.mkdir()
    (cache / CARD.filename).write_bytes(CONTENT)
    assert weights_file(CARD) == cache / CARD.filename


def test_a_copy_of_torch_hub_is_used_where_it_is(cache: Path, tmp_path: Path) -> None:
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / CARD.filename).write_bytes(CONTENT)
    assert weights_file(CARD) == hub / CARD.filename
    assert kept(cache) == []


def test_a_cache_that_cannot_be_made_is_a_download_error(
    cache: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (mirror / CARD.filename).write_bytes(CONTENT)
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="file/cache"):
        weights_file(CARD)


@pytest.mark.parametrize("scheme", ["http://127.0.0.1:9", "ftp://127.0.0.1:9", "weights"])
def test_mirrors_that_are_neither_https_nor_a_folder_are_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv(MIRROR, scheme)
    with pytest.raises(UsageError, match=MIRROR):
        weights_file(CARD)
    assert kept(cache) == []


@pytest.mark.parametrize("address", ["https://a b/", "https://127.0.0.1:port/", "https://[::1/", "https://"])
def test_a_mirror_that_is_no_address_is_an_error_of_ours(
    cache: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv(MIRROR, address)
    with pytest.raises((UsageError, DownloadError)):
        weights_file(CARD)
    assert kept(cache) == []


def test_a_published_key_brings_its_own_preprocessing_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = torchvision.models.resnet18().state_dict()
    torch.save(theirs, tmp_path / "resnet18-local.pth")
    digest = hashlib.sha256((tmp_path / "resnet18-local.pth").read_bytes()).hexdigest()
    card = Published(
        key="resnet18.local",
        architecture="resnet18-B",
        url="https://127.0.0.1:9/resnet18-local.pth",
        sha256_prefix=digest[:8],
        preprocessing=Preprocessing(resize=232, interpolation="bicubic"),
        single_crop=(30.0, 10.0),
    )
    monkeypatch.setenv("RESNET_INFER_CACHE", str(tmp_path))
    monkeypatch.setitem(PUBLISHED, card.key, card)
    loaded = load_checkpoint("resnet18.local", Overrides(mean=(0.1, 0.2, 0.3)))
    assert loaded.name == loaded.manifest.source == "resnet18.local"
    assert loaded.manifest.spec == spec_from_name("resnet18")
    assert loaded.manifest.preprocessing == replace(card.preprocessing, mean=(0.1, 0.2, 0.3))
    assert loaded.manifest.labels == imagenet1k()
    assert loaded.manifest.source_sha256 == digest
    assert all(torch.equal(loaded.state_dict[key], tensor) for key, tensor in theirs.items())


def test_a_redirection_to_anything_but_https_is_not_followed() -> None:
    """Against a server here, which sends its visitors on to http."""

    class Sending(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/other")  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Sending)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(urllib.error.URLError, match="which is not https"):
            urllib.request.build_opener(HttpsOnly).open(f"http://127.0.0.1:{server.server_port}/", timeout=30)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
