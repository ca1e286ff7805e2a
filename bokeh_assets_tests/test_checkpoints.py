"""Official files: downloads survive bad networks, foreign and hostile files are refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from bokeh_assets import checkpoint_archive, checkpoints, downloads
from bokeh_assets.checkpoints import CHECKPOINTS, Checkpoint, download, find, load_weights, verify
from bokeh_assets.errors import InputError

STATE = {"a.weight": torch.arange(400_000, dtype=torch.float32).reshape(400, 1000), "a.bias": torch.ones(1000)}
PARAMETERS = 401_000


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """What the registry's entries of these tests expect."""
    return {key: tuple(value.shape) for key, value in STATE.items()}


class Server:
    """A real HTTP server that can misbehave on demand."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.break_after: list[int] = []  # bytes to send before hanging up, one entry per answer
        self.status: int | None = None
        self.ranges = True
        self.html = False
        self.headers: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.path, dict(request.headers)))
        if request.path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[request.path])
            for key, value in self.headers.items():
                request.send_header(key, value)
            request.end_headers()
            return
        if self.status is not None or request.path not in self.files:
            request.send_error(self.status or 404)
            return
        data = self.files[request.path]
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        start = 0
        asked = request.headers.get("Range", "")
        if self.ranges and asked and request.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        request.send_header("ETag", etag)
        request.send_header("Content-Type", "text/html" if self.html else "application/octet-stream")
        request.send_header("Content-Length", str(len(data) - start))
        for key, value in self.headers.items():
            request.send_header(key, value)
        request.end_headers()
        end = start + self.break_after.pop(0) if self.break_after else len(data)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client hung up first
            request.wfile.write(data[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.fixture
def entry(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A small checkpoint on the server, entered into the registry as `little`."""
    server.files["/little.pth"] = saved(STATE)
    checkpoint = Checkpoint(
        name="little",
        kind="depth",
        path="little.pth",
        files=(("", f"{server.url}/little.pth"),),
        parameters=PARAMETERS,
        licence="Apache-2.0",
        commercial=True,
        shapes="bokeh_assets_tests.test_checkpoints:shapes",
        model="little",
        page="http://example.org/little",
    )
    monkeypatch.setenv("BOKEH_CHECKPOINTS_DIR", str(tmp_path))
    monkeypatch.setitem(CHECKPOINTS, "little", checkpoint)
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    return checkpoint


def leftovers(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_download_arrives_whole_and_verifies(entry: Checkpoint, server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert find("little") is None
    path = download("little", progress=lambda done, total: seen.append((done, total)))
    data = server.files["/little.pth"]
    assert path == tmp_path / "little.pth" == find("little")
    assert path.read_bytes() == data
    assert seen[-1] == (len(data), len(data))
    result = verify("little")
    assert result.ok and result.sha256 == hashlib.sha256(data).hexdigest()
    assert leftovers(tmp_path) == {"little.pth", "little.pth.json"}
    download("little")
    assert len(server.asked) == 1  # what is there is not asked for again


def test_broken_transfers_go_on_where_they_stopped(entry: Checkpoint, server: Server) -> None:
    server.break_after = [300_000, 500_000]
    path = download("little")
    assert path.read_bytes() == server.files["/little.pth"]
    starts = [headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-") for _, headers in server.asked]
    assert len(starts) == 3
    assert int(starts[1]) in range(300_000 - downloads.TRANSFER, 300_001)
    assert int(starts[2]) - int(starts[1]) in range(500_000 - downloads.TRANSFER, 500_001)


def test_a_killed_download_resumes_in_the_next_run(entry: Checkpoint, server: Server, tmp_path: Path) -> None:
    server.break_after = [300_000] + [0] * 20
    with pytest.raises(InputError, match=r"goes on at 2\d{5} bytes"):
        download("little")
    kept = (tmp_path / "little.pth.part").stat().st_size
    assert find("little") is None and not (tmp_path / "little.pth").exists()
    server.break_after = []
    download("little")
    assert server.asked[-1][1]["Range"] == f"bytes={kept}-"
    assert verify("little").ok


def test_a_changed_file_on_the_server_is_not_glued_to_the_old_half(entry: Checkpoint, server: Server) -> None:
    server.break_after = [300_000] + [0] * 20
    with pytest.raises(InputError):
        download("little")
    server.break_after = []
    server.files["/little.pth"] = saved({**STATE, "a.bias": torch.zeros(1000)})
    assert download("little").read_bytes() == server.files["/little.pth"]


def test_a_server_without_ranges_starts_again(entry: Checkpoint, server: Server) -> None:
    server.ranges = False
    server.break_after = [300_000]
    assert download("little").read_bytes() == server.files["/little.pth"]


def test_a_complete_part_is_finished_without_a_transfer(entry: Checkpoint, server: Server, tmp_path: Path) -> None:
    server.break_after = [300_000] + [0] * 20
    with pytest.raises(InputError):
        download("little")
    (tmp_path / "little.pth.part").write_bytes(server.files["/little.pth"])
    server.break_after = []
    download("little")
    assert verify("little").ok


def test_a_file_of_impossible_size_is_refused_at_once(entry: Checkpoint, server: Server, tmp_path: Path) -> None:
    server.files["/little.pth"] = b"x" * 1000
    with pytest.raises(InputError, match=r"has 1000 bytes, not 1604000 to"):
        download("little")
    assert find("little") is None
    assert not (tmp_path / "little.pth").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_said_with_its_number(entry: Checkpoint, server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(InputError, match=rf"HTTP {status}.*example.org"):
        download("little")
    assert len(server.asked) == 1


def test_an_overloaded_server_is_asked_again_but_not_for_ever(entry: Checkpoint, server: Server) -> None:
    server.status = 503
    with pytest.raises(InputError, match="503"):
        download("little")
    assert len(server.asked) == downloads.MAX_IDLE_ATTEMPTS


def test_no_network_is_one_clear_line(entry: Checkpoint, server: Server) -> None:
    server.close()
    with pytest.raises(InputError, match="check the network") as caught:
        download("little")
    assert "\n" not in str(caught.value)


def test_a_web_page_is_not_taken_for_weights(entry: Checkpoint, server: Server) -> None:
    server.html = True
    with pytest.raises(InputError, match="web page"):
        download("little")


def test_no_space_is_said(entry: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: _Usage())
    with pytest.raises(InputError, match="no space left"):
        download("little")


class _Usage:
    free = 1000


def test_a_digest_stated_by_the_host_is_checked(entry: Checkpoint, server: Server, tmp_path: Path) -> None:
    data = server.files["/little.pth"]
    server.files["/store"] = data
    server.redirects["/little.pth"] = f"{server.url}/store"
    server.headers = {"X-Linked-Etag": '"' + "0" * 64 + '"'}
    with pytest.raises(InputError, match="announced"):
        download("little")
    assert not list(tmp_path.glob("little.pth*part"))
    server.headers = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"'}
    assert download("little").read_bytes() == data


def test_two_processes_do_not_write_to_one_part(entry: Checkpoint, tmp_path: Path) -> None:
    with (
        downloads._only_one(tmp_path / "little.pth.part"),
        pytest.raises(InputError, match="another process"),
    ):
        download("little")


def test_a_licence_must_be_accepted(entry: Checkpoint, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECKPOINTS, "little", replace(entry, commercial=False, licence="CC-BY-NC-4.0"))
    with pytest.raises(InputError, match=r"CC-BY-NC-4.0.*--accept-license"):
        download("little")
    assert server.asked == []
    assert download("little", accept_license=True).is_file()


def test_the_token_goes_to_the_first_host_only_and_into_no_message(
    entry: Checkpoint, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKPOINTS, "little", replace(entry, gated=True))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.files["/store"] = server.files["/little.pth"]
    # Another name of this machine is another host.
    server.redirects["/little.pth"] = server.url.replace("127.0.0.1", "localhost") + "/store"
    download("little")
    sent = {path: headers.get("Authorization") for path, headers in server.asked}
    assert sent == {"/little.pth": "Bearer hf_secret", "/store": None}
    find_path = find("little")
    assert find_path is not None
    find_path.unlink()
    server.redirects, server.status = {}, 403
    with pytest.raises(InputError, match="HF_TOKEN") as caught:
        download("little")
    assert "hf_secret" not in str(caught.value)


def test_verify_says_what_is_wrong(entry: Checkpoint, tmp_path: Path) -> None:
    path = download("little")
    good = path.read_bytes()

    path.write_bytes(good[:-100_000])
    assert "were downloaded" in (verify("little").problem or "") and find("little") is None
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    path.write_bytes(bytes(flipped))
    assert "SHA-256" in (verify("little").problem or "")

    downloads.record_path(path).unlink()
    for state, words in [
        ({"a.weight": STATE["a.weight"]}, "1 tensors are missing (such as a.bias)"),
        ({**STATE, "head.bias": torch.ones(3)}, "1 tensors do not belong to the model (such as head.bias)"),
        ({**STATE, "a.bias": torch.ones(1001)}, "a.bias has shape (1001,), not (1000,)"),
        ({**STATE, "a.bias": torch.full((1000,), torch.nan)}, "not finite"),
        ([1, 2, torch.zeros(PARAMETERS)], "no dictionary of tensors"),
    ]:
        path.write_bytes(saved(state))
        problem = verify("little").problem
        if find("little") is not None:
            assert problem is not None and words in problem
        else:
            assert problem is not None and "bytes of weights" in problem
    # A table of places, which older files of CLIP carry, is no weight.
    path.write_bytes(saved({**STATE, "a.position_ids": torch.arange(50)[None]}))
    assert verify("little").ok
    path.write_bytes(good[:200] + bytes(len(good) - 200))
    assert "truncated or not a checkpoint" in (verify("little").problem or "")
    path.write_bytes(good)
    assert verify("little").ok


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True, None])
def test_a_malicious_pickle_is_refused_and_never_run(entry: Checkpoint, tmp_path: Path, legacy: bool | None) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "little.pth"
    bad = {**STATE, "a.bias": Bomb(mark)}
    if legacy is None:
        path.write_bytes(pickle.dumps(Bomb(mark)) + bytes(4 * PARAMETERS))
    else:
        torch.save(bad, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="more than weights"):
        load_weights(path)
    problem = verify("little").problem
    assert problem is not None and ("more than weights" in problem or "bytes of weights" in problem)
    assert not mark.exists()


def test_sam2_style_wrapping_and_old_formats_load(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.pth"):
        loaded = load_weights(tmp_path / name)
        assert all(torch.equal(loaded[key], STATE[key]) for key in STATE)


@pytest.fixture
def archived(entry: Checkpoint, server: Server, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """Two parts in one archive on the server: `one` and `two`, laid out like any-to-bokeh's."""
    for name in list(CHECKPOINTS):
        if CHECKPOINTS[name].archive:
            monkeypatch.delitem(CHECKPOINTS, name)
    for name, path in (("one", "unet/unet"), ("two", "vae")):
        part = replace(entry, name=name, path=path, archive=f"{server.url}/all", files=())
        monkeypatch.setitem(CHECKPOINTS, name, part)
    return entry


def packed(kind: str, extra: str | None = None) -> bytes:
    members = {
        "release/unet/unet/config.json": b"{}",
        "release/unet/unet/weights.bin": saved(STATE),
        "release/vae/config.json": b"{}",
        "release/vae/weights.bin": saved(STATE),
        "release/README.md": b"hello",
    }
    if extra:
        members[extra] = b"evil"
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_unpacked_into_its_parts(
    archived: Checkpoint, server: Server, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/all"] = packed(kind)
    monkeypatch.setattr(checkpoint_archive, "fetch", _small_fetch)
    download("one")
    assert verify("one").ok and verify("two").ok
    assert leftovers(tmp_path) == {"unet", "vae"}
    assert leftovers(tmp_path / "vae") == {"config.json", "weights.bin"}


def _small_fetch(url: str, target: Path, **options: object) -> downloads.Fetched:
    return downloads.fetch(url, target)


def test_an_archive_put_there_by_hand_is_used_and_kept(archived: Checkpoint, server: Server, tmp_path: Path) -> None:
    (tmp_path / "any_to_bokeh.zip").write_bytes(packed("zip"))
    download("two")
    assert verify("two").ok and server.asked == []
    assert (tmp_path / "any_to_bokeh.zip").is_file()


@pytest.mark.parametrize("path", ["../evil", "/elsewhere/evil", "release/vae/../../../evil"])
def test_an_archive_cannot_write_outside(archived: Checkpoint, tmp_path: Path, path: str) -> None:
    (tmp_path / "any_to_bokeh.zip").write_bytes(packed("zip", extra=path))
    with pytest.raises(InputError, match="leads outside"):
        download("one")
    assert leftovers(tmp_path) == {"any_to_bokeh.zip"}


def test_a_refused_archive_tells_the_steps_by_hand(archived: Checkpoint, server: Server) -> None:
    server.files["/all"] = b"<html>too many downloads</html>"
    server.html = True
    with pytest.raises(InputError, match=r"by hand from .* as any_to_bokeh.zip, and run the same command again"):
        download("one")


def test_an_unknown_name_lists_the_known_ones() -> None:
    for call in (find, download, verify):
        with pytest.raises(InputError, match=r"sam2.1_hiera_tiny, .*any_to_bokeh_unet"):
            call("sam3")


def test_the_registry_holds_the_official_sources() -> None:
    assert len(CHECKPOINTS) == 13
    for name, checkpoint in CHECKPOINTS.items():
        assert checkpoint.name == name
        assert checkpoint.url.startswith("https://")
        assert checkpoint.commercial == (checkpoint.licence == "Apache-2.0")
        assert checkpoints.known(name) is checkpoint
    free = {name for name, c in CHECKPOINTS.items() if c.commercial}
    assert free == {
        *(f"sam2.1_hiera_{size}" for size in ("tiny", "small", "base_plus", "large")),
        "video_depth_anything_vits",
        "metric_video_depth_anything_vits",
    }


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOKEH_CHECKPOINTS_DIR", "/somewhere")
    assert checkpoints.checkpoint_dir() == Path("/somewhere")
    monkeypatch.delenv("BOKEH_CHECKPOINTS_DIR")
    assert checkpoints.checkpoint_dir() == Path("checkpoints")
