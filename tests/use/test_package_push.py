"""``push=true``: what is sent to the hub, by its own client, to a server that keeps what it is sent."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ftlab.errors import ConfigError, NotReadyError
from tests.runs import train_run
from tests.use.test_package import GIVEN
from tests.use.test_package_archive import packaged

TOKEN = "hf_" + "abcdefghij" * 3


class Hub(ThreadingHTTPServer):
    """The few requests of the hub that a commit takes. :ivar repositories: privacy by name. :ivar files: by name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, code: int, values: Any) -> None:
        content = json.dumps(values).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path.startswith("/api/whoami"):
            self._send(200, {"type": "user", "name": "ann", "auth": {}})
        elif found := re.match(r"/api/models/([\w.-]+/[\w.-]+)", self.path):
            name = found[1]
            known = name in self.server.repositories
            self._send(*((200, {"id": name, "private": self.server.repositories[name]}) if known else (404, {})))
        else:
            self._send(404, {})

    def do_POST(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or "ann"
            name = f"{owner}/{asked['name']}"
            if name in self.server.repositories:
                self._send(409, {"url": name})
                return
            self.server.repositories[name] = asked.get("private", False) or asked.get("visibility") == "private"
            self._send(200, {"url": f"http://{self.headers['Host']}/{name}"})
        elif "/preupload/" in self.path:
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self._send(200, {"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"http://{self.headers['Host']}/ann/x/commit/1"
            self._send(200, {"commitUrl": address, "commitOid": "1", "hookOutput": ""})
        else:
            self._send(200, {"errors": [], "warnings": []})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.matrix
def test_a_package_is_pushed_privately_with_the_token_of_the_environment(hub, tmp_path, env):
    run = train_run(tmp_path / "run", *GIVEN).path

    def pushed(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        address = f"http://127.0.0.1:{hub.server_port}"
        given = {**env, "HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", **more}
        del given["HF_HUB_OFFLINE"]
        command = [sys.executable, "-m", "ftlab", "package", "run", "check=false", "push=true", *words]
        return subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True)

    done = pushed("repo=ann/mine")
    assert done.returncode == 0, done.stderr
    assert re.search(r"pushed to http://127\.0\.0\.1:\d+/ann/mine \(private\)", done.stdout)
    assert hub.repositories == {"ann/mine": True} and hub.tokens == {f"Bearer {TOKEN}"}
    saved = (run / "final" / "adapter_model.safetensors").read_bytes()
    assert hub.files["adapter_model.safetensors"] == saved and b"library_name: peft" in hub.files["README.md"]
    assert TOKEN not in done.stdout + done.stderr
    packed = "".join(str(content) for content in hub.files.values())
    assert TOKEN not in packed and str(tmp_path) not in packed

    done = pushed("private=false")
    assert done.returncode == 0 and hub.repositories["ann/run-peft"] is False and "(private)" not in done.stdout
    done = pushed()
    assert done.returncode == 1 and "is there already, and for everybody" in done.stderr
    assert "The package is written all the same" in done.stderr
    shutil.rmtree(run / "packages")
    done = pushed("repo=ann/mine", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "It cannot be pushed to http://127.0.0.1:9" in done.stderr
    assert (run / "packages" / "run-peft.tar.gz").is_file() and "Traceback" not in done.stderr


def test_without_a_token_nothing_is_packed(here, monkeypatch):
    run = train_run(here / "run", *GIVEN).path
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(NotReadyError, match=r"needs a token of the Hugging Face hub .* environment variable HF_TOKEN"):
        packaged("run", "push=true")
    assert not (run / "packages").exists()
    with pytest.raises(ConfigError, match=r"task\.repo=me/x: is of push=true"):
        packaged("run", "repo=me/x")
    with pytest.raises(ConfigError, match=r"repo"):
        packaged("run", "push=true", "repo=a/b/c")
