"""Two runs of one video, two servers on one home, a cleaning beside a run: one after the other, or refused clearly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from bokeh_assets import workers
from bokeh_assets.claims import claim, claimed, holder
from bokeh_assets.errors import InputError
from bokeh_assets.media.samples import make_sample
from bokeh_assets.store import VideoFolder, VideoStore
from bokeh_assets_tests.serving import REPOSITORY, serving
from bokeh_assets_tests.trust.zygote import listing


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=0.25, size=(64, 48))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    data = tmp_path / "data"
    own = {"BOKEH_DATA_DIR": str(data), "DAGSTER_HOME": str(data / "dagster"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "BOKEH_CHECKPOINTS_DIR": str(tmp_path / "none")}


def start(environment: dict[str, str], *words: object) -> subprocess.Popen[str]:
    """A real `bokeh-assets …` at work."""
    command = [sys.executable, "-m", "bokeh_assets.cli", *map(str, words)]
    return subprocess.Popen(
        command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def only_video(environment: dict[str, str]) -> VideoFolder:
    store = VideoStore(environment["BOKEH_DATA_DIR"])
    (folder,) = (path for path in store.videos.iterdir() if not path.name.startswith("."))
    return store.video(folder.name)


def someone_else() -> subprocess.Popen[bytes]:
    """Another process, for as long as its standard input is open."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def held_by(video: VideoFolder, pid: int, run: str = "another") -> None:
    video.folder.mkdir(parents=True, exist_ok=True)
    video.claim.write_text(json.dumps({"run": run, "worker": workers.identity(pid)}))


def test_a_claimed_video_is_refused_to_another_run_until_its_process_is_gone(tmp_path: Path):
    video, other = VideoStore(tmp_path).video("a"), someone_else()
    held_by(video, other.pid)
    with pytest.raises(InputError, match="run another is making this video at this moment; let it end or cancel it"):
        claim(video, "mine", None)
    assert holder(video, None) == "another"
    other.kill()
    other.wait()
    claim(video, "mine", None)
    assert json.loads(video.claim.read_text())["run"] == "mine"


def test_a_claim_ends_with_its_run_although_the_process_lives_on(tmp_path: Path):
    video, other = VideoStore(tmp_path).video("a"), someone_else()
    with dg.DagsterInstance.ephemeral() as instance:
        for status, free in ((dg.DagsterRunStatus.STARTED, False), (dg.DagsterRunStatus.SUCCESS, True)):
            run = instance.create_run_for_job(nothing, status=status)
            held_by(video, other.pid, run.run_id)
            assert (holder(video, instance) is None) == free
    other.kill()
    other.wait()


@dg.job
def nothing() -> None:
    """A job for runs that only have to be in the books."""


def test_a_waiting_run_says_so_and_goes_on_when_the_other_is_gone(tmp_path: Path):
    video, other, said = VideoStore(tmp_path).video("a"), someone_else(), []

    def say(line: str) -> None:
        said.append(line)
        other.kill()
        other.wait()

    held_by(video, other.pid)
    with claimed(video, say, None):
        assert holder(video, None) is not None
    assert said == ["a: waiting for run another to end"] and holder(video, None) is None


def test_an_identity_is_never_that_of_a_later_process():
    other = someone_else()
    name = workers.identity(other.pid)
    assert workers.alive(name) is True and name != workers.identity()
    other.kill()
    other.wait()
    assert workers.alive(name) is False
    host, boot, space, pid, started = workers.identity().split("|")
    assert workers.alive("|".join((host, boot, space, pid, str(int(started) + 1)))) is False, "the number came again"
    assert workers.alive("|".join((host, "an earlier boot", space, pid, started))) is False
    assert workers.alive("|".join(("another host", boot, space, pid, started))) is None


@pytest.mark.slow
def test_two_runs_of_one_video_with_different_looks_take_turns(clip: Path, environment: dict[str, str]):
    alone = {}
    for k in ("4", "20"):
        process = start(environment, "run", clip, "--k", k)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        video = only_video(environment)
        alone[k] = listing(video.folder)
    shutil.rmtree(environment["BOKEH_DATA_DIR"])

    both = {k: start(environment, "run", clip, "--k", k) for k in ("4", "20")}
    told = {k: process.communicate(timeout=300) for k, process in both.items()}
    assert [process.returncode for process in both.values()] == [0, 0], told
    assert sum("waiting for run" in out for out, _ in told.values()) == 1, told
    assert listing(only_video(environment).folder) in alone.values(), "the look of one of them, whole"


@pytest.mark.slow
def test_a_cleaning_beside_a_run_is_refused_and_spoils_nothing(clip: Path, environment: dict[str, str]):
    Path(environment["BOKEH_DATA_DIR"]).mkdir()
    process = start(environment, "run", clip)
    refusals = 0
    while process.poll() is None:
        cleaning = start(environment, "clean")
        _, errors = cleaning.communicate(timeout=120)
        if cleaning.returncode:
            refusals += 1
            assert len(errors.strip().splitlines()) == 1 and "let it end" in errors, errors
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert only_video(environment).bokeh.is_file()
    print(f"{refusals} cleanings refused")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_server_per_home_and_a_run_beside_it_takes_turns(clip: Path, environment: dict[str, str]):
    from bokeh_assets_tests.trust.kills import ENDED, Real

    data = Path(environment["BOKEH_DATA_DIR"])
    own = {name: environment[name] for name in ("DAGSTER_HOME", "BOKEH_CHECKPOINTS_DIR", "OMP_NUM_THREADS")}
    first = start(environment, "run", clip)
    first.communicate(timeout=300)
    video = only_video(environment)
    wanted = listing(video.folder)
    with serving(data, None, **own) as server:
        second = start(environment, "dev", "--port", "39999")
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 1 and len(errors.strip().splitlines()) == 1, errors
        assert "is served already" in errors and server.url in errors

        # Two runs from the server and one from the command line, all of one video.
        real = Real.__new__(Real)
        for _ in range(2):
            real.launch(server, video.key)
        server.wait(lambda: any(run["status"] == "STARTED" for run in server.runs(video.key)), 90, "a run")
        most = 0
        video.settings.unlink(missing_ok=True)
        beside = start(environment, "run", clip)

        def over() -> bool:
            nonlocal most
            runs = server.runs(video.key)
            most = max(most, sum(run["status"] == "STARTED" for run in runs))
            return all(run["status"] in ENDED for run in runs) and beside.poll() is not None

        server.wait(over, 300, "the runs")
        out, errors = beside.communicate()
        assert beside.returncode == 0, out + errors
        assert most == 1, "never two at once"
        assert {run["status"] for run in server.runs(video.key)} == {"SUCCESS"}
    assert listing(video.folder) == wanted


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_no_process_and_may_be_started_again(environment: dict[str, str]):
    data = Path(environment["BOKEH_DATA_DIR"])
    own = {name: environment[name] for name in ("DAGSTER_HOME", "BOKEH_CHECKPOINTS_DIR", "OMP_NUM_THREADS")}
    from bokeh_assets_tests.trust.kills import Real

    real = Real.__new__(Real)
    real.home = data / "dagster"
    with serving(data, None, **own):
        os.kill(real.note()["keeper"], signal.SIGKILL)
        began = time.monotonic()
        assert real.outlive(30) == 0
        print(f"all gone after {time.monotonic() - began:.1f} s")
    with serving(data, None, **own) as server:
        assert server.runs() == []
