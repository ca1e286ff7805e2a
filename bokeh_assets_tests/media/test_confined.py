"""The process that parses uploads: what it may not do, and what becomes of it when it fails."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from bokeh_assets.errors import InputError
from bokeh_assets.media import confined, decode, encode, extract, probe
from bokeh_assets.media.frames import FrameFolder
from bokeh_assets.media.timing import read_timing
from bokeh_assets_tests.media.clips import make_clip, moving

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds a process like this")

ATTEMPTS = """
import json, os, socket, subprocess, sys
from pathlib import Path
from bokeh_assets.media import sandbox

mine, other, out = (Path(arg) for arg in sys.argv[1:])
held = sandbox.confine(read=[mine], write=[out], memory=1 << 28, seconds=20)
attempts = {
    "read the input": lambda: mine.read_bytes(),
    "write into the output": lambda: (out / "a").write_bytes(b"x"),
    "read another file": lambda: other.read_bytes(),
    "overwrite the input": lambda: mine.write_bytes(b"x"),
    "list a folder": lambda: os.listdir(other.parent),
    "write elsewhere": lambda: (other.parent / "new").write_bytes(b"x"),
    "delete": lambda: other.unlink(),
    "read the environment of others": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "call somebody": lambda: socket.create_connection(("127.0.0.1", 9)),
    "start a program": lambda: subprocess.run(["/bin/true"]),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "take a lot of memory": lambda: bytearray(1 << 30),
}
came = {}
for what, attempt in attempts.items():
    try:
        attempt()
        came[what] = "done"
    except (OSError, MemoryError) as error:
        came[what] = type(error).__name__
print(json.dumps([held, came]))
"""


@linux
def test_a_bound_process_reaches_its_input_and_its_output_and_nothing_else(tmp_path: Path) -> None:
    mine, other, out = tmp_path / "mine", tmp_path / "private" / "other", tmp_path / "out"
    other.parent.mkdir()
    out.mkdir()
    mine.write_text("mine")
    other.write_text("secret")
    command = [sys.executable, "-c", ATTEMPTS, str(mine), str(other), str(out)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    held, came = json.loads(made.stdout)
    assert {"time", "memory"} <= set(held)
    assert came.pop("read the input") == came.pop("write into the output") == "done"
    assert came.pop("take a lot of memory") == "MemoryError"
    of_network = {"call somebody", "start a program", "signal its parent"}
    for what, result in came.items():
        held_by = "network" if what in of_network else "files"
        if held_by in held:  # else the kernel or the machine has no such thing
            assert result == "PermissionError", what
    assert other.read_text() == "secret" and mine.read_text() == "mine"


def test_the_doctor_says_what_holds() -> None:
    from bokeh_assets.doctor import examine

    (line,) = [line for line in examine() if line.startswith("uploads are decoded")]
    assert all(what in line for what in confined.bounds()) and "time" in confined.bounds()


def test_a_module_lying_in_the_working_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    (tmp_path / "av.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert confined.probe(clip) == probe.probe(clip)


def test_confined_functions_give_what_the_plain_ones_give(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", size=(160, 96), ticks=range(12), picture=moving, audio="aac", title="A\tB")
    assert confined.probe(clip) == probe.probe(clip)
    counts: list[int] = []
    ours = confined.extract_frames(clip, tmp_path / "a", progress=counts.append)
    plain = extract.extract_frames(clip, tmp_path / "b")
    assert replace(ours, folder=plain.folder) == plain and counts[-1] == 12
    for name in sorted(os.listdir(tmp_path / "b")):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    table, _ = read_timing(tmp_path / "a" / "frames.parquet")
    frames = list(FrameFolder(tmp_path / "a"))
    one = confined.encode(iter(frames), tmp_path / "one.mp4", timing=table, source=clip)
    two = encode.encode(iter(frames), tmp_path / "two.mp4", timing=table, source=clip)
    assert replace(one, path=two.path) == two
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_errors_of_the_frames_and_of_their_number_come_through(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    confined.extract_frames(clip, tmp_path / "frames")
    table, _ = read_timing(tmp_path / "frames" / "frames.parquet")
    frames = list(FrameFolder(tmp_path / "frames"))
    with pytest.raises(InputError, match="3 frames, but the timing lists 8"):
        confined.encode(iter(frames[:3]), tmp_path / "out.mp4", timing=table, source=clip)
    with pytest.raises(InputError, match="more frames than the 8"):
        confined.encode(iter(frames * 4), tmp_path / "out.mp4", timing=table, source=clip)

    def failing():
        yield frames[0]
        raise RuntimeError("the renderer failed")

    with pytest.raises(RuntimeError, match="the renderer failed"):
        confined.encode(failing(), tmp_path / "out.mp4", timing=table, source=clip)
    assert psutil.Process().children() == []


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "long.mp4", size=(1280, 720), ticks=range(100), picture=lambda w, h, i: moving(w, h, 0))


def stop_with(number: int):
    """A progress callback that sends a signal to our only child."""

    def tell(frames: int) -> None:
        for child in psutil.Process().children():
            child.send_signal(number)

    return tell


@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGSEGV, "crashed its decoder"), (signal.SIGABRT, "crashed"), (signal.SIGKILL, "memory")],
)
def test_a_crash_is_one_clear_error(number: int, says: str, long_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"long\.mp4 .*{says}.*; convert it"):
        confined.extract_frames(long_clip, tmp_path / "frames", progress=stop_with(number))
    assert psutil.Process().children() == []


def test_a_decoder_that_hangs_is_ended_by_the_watchdog(long_clip: Path, tmp_path: Path) -> None:
    limits = replace(confined.LIMITS, patience=2.0)
    start = time.monotonic()
    with pytest.raises(InputError, match="made no progress for 2 seconds"):
        confined.extract_frames(long_clip, tmp_path / "frames", progress=stop_with(signal.SIGSTOP), limits=limits)
    assert time.monotonic() - start < 20
    assert psutil.Process().children() == []


@linux
def test_processor_time_is_bounded(long_clip: Path, tmp_path: Path) -> None:
    limits = replace(confined.LIMITS, seconds=0.5, seconds_per_frame=0.0)
    with pytest.raises(InputError, match="processor time"):
        confined.extract_frames(long_clip, tmp_path / "frames", limits=limits)


@linux
def test_memory_is_bounded(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "wide.mkv", size=(8000, 4000), ticks=range(2), codec="ffv1")
    with pytest.raises(InputError, match=r"wide\.mkv"):
        confined.extract_frames(clip, tmp_path / "frames", limits=replace(confined.LIMITS, memory=150 << 20))
    assert confined.probe(clip).width == 8000


@linux
def test_the_child_dies_with_its_parent(long_clip: Path, tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from bokeh_assets.media import confined;"
        "import psutil;"
        "say = lambda n: (print(psutil.Process().children()[0].pid, flush=True), psutil.Process().children()[0]"
        ".suspend(), os.kill(os.getpid(), signal.SIGKILL));"
        f"confined.extract_frames(Path({str(long_clip)!r}), Path({str(tmp_path / 'f')!r}), progress=say)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    child = int(parent.stdout.split()[0])
    for _ in range(100):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_a_full_disk_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    child = confined.Child("probe", {"path": str(clip)}, clip, read=[clip])
    with child:
        child.result()
        child._answer = {"os_error": [errno.ENOSPC, "No space left on device", "/somewhere"]}
        with pytest.raises(OSError) as raised:
            child.result()
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == "/somewhere"


@pytest.mark.parametrize("answer", [b"nonsense\n", b"[1]\n", b'{"frames": 3'])
def test_a_child_under_foreign_control_gets_nothing_but_data_across(answer: bytes, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    with confined.Child("probe", {"path": str(clip)}, clip, read=[clip]) as child:
        child._started = True
        read, write = os.pipe()
        child._from.close()
        child._from = os.fdopen(read, "rb")
        os.write(write, answer)
        os.close(write)
        with pytest.raises(InputError, match=r"clip\.mp4"):
            child.result()


def test_a_decoder_that_cannot_start_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(RuntimeError, match="cannot start"):
        confined.probe(clip)


def test_frames_that_are_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "MAX_FRAMES", 5)
    with pytest.raises(InputError, match="more than 5 frames"):
        extract.extract_frames(make_clip(tmp_path / "clip.mp4"), tmp_path / "frames")


def test_masks_are_decoded_confined_and_come_out_as_plain_grey(tmp_path: Path) -> None:
    import cv2

    colour = np.zeros((40, 60, 3), np.uint16)
    colour[10:20] = 65535
    assert cv2.imwrite(str(tmp_path / "m.png"), colour)
    (made,) = confined.plain_masks([tmp_path / "m.png"], tmp_path)
    picture = cv2.imread(str(made), cv2.IMREAD_UNCHANGED)
    assert picture is not None and picture.shape == (40, 60) and picture.dtype == np.uint8
    assert picture[15, 5] == 255 and picture[5, 5] == 0
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match=r"bad\.png cannot be read as a picture"):
        confined.plain_masks([tmp_path / "bad.png"], tmp_path)


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for function in (confined.probe, probe.probe, decode.decode):
        with pytest.raises(InputError, match="pipe, socket or device"):
            function(tmp_path / "pipe.mp4")
