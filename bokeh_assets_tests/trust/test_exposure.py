"""The UI listens on this machine alone, and the documented proxies ask for a password before they let anybody in."""

from __future__ import annotations

import base64
import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bokeh_assets_tests.serving import REPOSITORY, Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


def recipe(language: str) -> str:
    """The configuration that the documentation shows."""
    found = re.search(rf"```{language}\n(.*?)```", (REPOSITORY / "docs" / "trust.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_nothing_listens_beyond_this_machine(server: Server):
    port = int(server.url.rpartition(":")[2])
    (process,) = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    family = [psutil.Process(process), *psutil.Process(process).parents()]
    keeper = next(p for p in reversed(family) if "dagster" in " ".join(p.cmdline()))
    pids = {keeper.pid, *(child.pid for child in keeper.children(recursive=True))}
    listening = [c for c in psutil.net_connections("inet") if c.pid in pids and c.status == "LISTEN"]
    assert listening and {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}, listening


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    """The command that serves the recipe on another port, with a certificate of its own."""
    hashed = subprocess.run(["caddy", "hash-password", "--plaintext", "secret"], capture_output=True, text=True)
    text = recipe("caddyfile").replace("HASH", hashed.stdout.strip()).replace("127.0.0.1:3000", upstream)
    text = text.replace("bokeh.example.org {", f"https://localhost:{port} {{\n    tls internal")
    options = ("admin off", "skip_install_trust", "auto_https disable_redirects", f"storage file_system {folder}")
    (folder / "Caddyfile").write_text("\n".join(["{", *options, "}", text]))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    """The same for nginx."""
    pem, key, users = folder / "bokeh.pem", folder / "bokeh.key", folder / "bokeh.users"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True)
    hashed = subprocess.run(["openssl", "passwd", "-apr1", "secret"], check=True, capture_output=True, text=True)
    users.write_text(f"editor:{hashed.stdout.strip()}\n")
    folder.chmod(0o755)
    text = recipe("nginx").replace("/etc/nginx", str(folder)).replace("127.0.0.1:3000", upstream)
    text = text.replace("listen 443", f"listen 127.0.0.1:{port}")
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user root;\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n"
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def ask(port: int, method: str, path: str, headers: dict[str, str], body: str | None = None) -> tuple[int, bytes]:
    """Status and body of an answer through the proxy."""
    trusting = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("localhost", port, timeout=30, context=trusting)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, b"" if answer.status == 101 else answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("proxy", [caddy, nginx])
def test_the_documented_proxy_asks_for_a_password_and_passes_everything_on(proxy, server: Server, tmp_path: Path):
    if shutil.which(proxy.__name__) is None or (proxy is nginx and shutil.which("openssl") is None):
        pytest.skip(f"no {proxy.__name__} here")
    port = free_port()
    command = proxy(tmp_path, server.url.removeprefix("http://"), port)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
        try:
            for _ in range(100):
                with socket.socket() as knock:
                    if knock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            query, typed = '{"query": "{ version }"}', {"Content-Type": "application/json"}
            wrong = {"Authorization": "Basic " + base64.b64encode(b"editor:guess").decode()}
            right = {"Authorization": "Basic " + base64.b64encode(b"editor:secret").decode()}
            for stranger in ({}, wrong):
                assert ask(port, "GET", "/", stranger)[0] == 401
                assert ask(port, "POST", "/graphql", {**typed, **stranger}, query)[0] == 401
                assert ask(port, "GET", "/graphql", {**WEBSOCKET, **stranger})[0] == 401
            status, page = ask(port, "GET", "/", right)
            assert status == 200 and b"<html" in page.lower()
            status, answer = ask(port, "POST", "/graphql", {**typed, **right}, query)
            assert status == 200 and b'"version"' in answer
            assert ask(port, "GET", "/graphql", {**WEBSOCKET, **right})[0] == 101
        finally:
            process.terminate()
            process.wait(30)
