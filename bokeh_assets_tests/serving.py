"""A real `dagster dev` for end-to-end tests: started, asked through GraphQL, looked at, stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]

SELECTOR = {"repositoryLocationName": "bokeh_assets.definitions", "repositoryName": "__repository__"}
"""The code location of `bokeh-assets dev`."""


class Server:
    """A running webserver and daemon."""

    def __init__(self, url: str, log: Path):
        self.url = url
        self.log = log

    def ask(self, query: str, **variables: Any) -> Any:
        """Data of a GraphQL answer; an error of the server is an AssertionError."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            result = json.load(answer)
        assert "errors" not in result, result["errors"]
        return result["data"]

    def runs(self, key: str | None = None) -> list[dict[str, Any]]:
        """Runs, newest first; those of one partition where a key is given."""
        tags = [{"key": "dagster/partition", "value": key}] if key else []
        answer = self.ask(
            "query($f: RunsFilter) { runsOrError(filter: $f) { ... on Runs { results { id status } } } }",
            f={"tags": tags},
        )
        return answer["runsOrError"]["results"]

    def materialize(self, keys: list[str], assets: list[str]) -> str:
        """Launches a backfill of these assets over these partitions, as the UI's Materialize button does."""
        answer = self.ask(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {"
            " __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            p={"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": keys},
        )["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return answer["backfillId"]

    def wait(self, done: Callable[[], Any], seconds: float, what: str) -> Any:
        """The first true value of `done`, asked every second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = done()
            if value:
                return value
            time.sleep(1)
        raise AssertionError(f"waited {seconds} s for {what}; the server said: {self.log.read_text()[-3000:]}")

    def ended(self, key: str, seconds: float = 300) -> dict[str, Any]:
        """The newest run of a partition, once it ended."""

        def newest() -> dict[str, Any] | None:
            runs = self.runs(key)
            return runs[0] if runs and runs[0]["status"] in ("SUCCESS", "FAILURE", "CANCELED") else None

        return self.wait(newest, seconds, f"the run of {key}")

    def metadata(self, asset: str, key: str) -> dict[str, Any]:
        """Metadata of the latest materialization of one asset partition, by label."""
        answer = self.ask(
            "query($k: AssetKeyInput!, $p: [String!]) { assetOrError(assetKey: $k) { ... on Asset {"
            " assetMaterializations(partitions: $p, limit: 1) { metadataEntries { label"
            " ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr }"
            " ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }"
            " ... on PathMetadataEntry { path } } } } } }",
            k={"path": [asset]},
            p=[key],
        )
        entries = answer["assetOrError"]["assetMaterializations"][0]["metadataEntries"]
        return {e["label"]: next((v for k, v in e.items() if k != "label"), None) for e in entries}


@contextmanager
def serving(data: Path, command: list[str] | None = None, **environment: str) -> Iterator[Server]:
    """Runs `bokeh-assets dev` (or another command with PORT in it) on a store until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = command or [sys.executable, "-m", "bokeh_assets.cli", "dev", "--port", "PORT"]
    words = [port if word == "PORT" else word for word in words]
    inherited = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    env = {**inherited, "BOKEH_DATA_DIR": str(data), "BOKEH_SENSOR_SECONDS": "5", **environment}
    data.mkdir(parents=True, exist_ok=True)
    log = data / "dev.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            words,
            cwd=REPOSITORY,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # dagster dev keeps an inherited "ignore", and would then not hear our SIGTERM.
            preexec_fn=lambda: (signal.signal(signal.SIGINT, signal.SIG_DFL), None)[1],
        )
        server = Server(f"http://127.0.0.1:{port}", log)
        try:

            def answers() -> bool:
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    with urllib.request.urlopen(f"{server.url}/server_info", timeout=5):
                        return True
                except (urllib.error.URLError, OSError):
                    return False

            server.wait(answers, 180, "the webserver")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def browser() -> str | None:
    """Headless Chromium, where one is installed."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def screenshot(url: str, picture: Path, size: str = "1600,1400", seconds: int = 20) -> str:
    """Loads a page in headless Chromium, keeps a picture of it and returns the page's final HTML."""
    program = browser()
    assert program is not None
    profile = picture.with_suffix(".profile")
    common = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", f"--window-size={size}", f"--virtual-time-budget={seconds * 1000}",
    ]  # fmt: skip
    subprocess.run([*common, f"--screenshot={picture}", url], check=True, capture_output=True, timeout=180)
    page = subprocess.run([*common, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=180)
    shutil.rmtree(profile, ignore_errors=True)
    return page.stdout
