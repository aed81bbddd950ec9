"""A server on loopback that speaks so much of the Hugging Face hub's protocol as its client needs to push and pull a
model: over git LFS, without Xet. No account, and nothing that leaves this machine."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.conftest import ROOT

TOKEN = "hf_of_the_test"
LARGE = (".onnx", ".safetensors")


class Hub:
    """As a context. models: the files of each, by OWNER/NAME; their content, or the SHA-256 of a large one's. asked:
    what requests came. flipped: the name of a file of which one bit changes on the way to whoever asks. sizes: of files
    whose size is said to be another one than it is."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes | str]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.flipped = ""
        self.sizes: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name: str) -> str:
        """The commit of a model, as a digest of what it has."""
        return hashlib.sha1(repr(sorted(self.models[name].items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, content: Any = None, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, kind: str) -> None:
        self.answer(404, {"error": f"{kind} not found"}, X_Error_Code=f"{kind}NotFound")

    def do_POST(self) -> None:
        body, hub = self.body(), self.hub
        hub.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            status = 409 if name in hub.models else 200
            hub.models.setdefault(name, {})
            self.answer(status, {"url": f"{hub.url}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path == "/verify":
            wanted = json.loads(body)
            self.answer(200 if len(hub.large.get(wanted["oid"], b"")) == wanted["size"] else 404)
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            assert found[1] in hub.models
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, {"files": [file | {"shouldIgnore": False} for file in files]})
        elif re.fullmatch(r"/.+\.git/info/lfs/objects/batch", self.path):
            objects = json.loads(body)["objects"]
            actions = ({"upload": {"href": f"{hub.url}/upload/{one['oid']}"}, "verify": {"href": f"{hub.url}/verify"}}
                       for one in objects)  # fmt: skip
            new = [one | {"actions": how} for one, how in zip(objects, actions, strict=True)]
            self.answer(200, {"transfer": "basic", "objects": new})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.models[found[1]][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    assert value["oid"] in hub.large, "committed, but not uploaded"
                    hub.models[found[1]][value["path"]] = value["oid"]
            commit = hub.commit(found[1])
            self.answer(200, {"commitUrl": f"{hub.url}/{found[1]}/commit/{commit}", "commitOid": commit})
        else:
            raise AssertionError(self.path)

    def do_PUT(self) -> None:
        data, oid = self.body(), self.path.removeprefix("/upload/")
        self.hub.asked.append(f"PUT {self.path}")
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.large[oid] = data
        self.answer(200)

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append(f"{self.command} {self.path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(\?blobs=\w+)?", self.path):
            if found[1] not in hub.models:
                return self.missing("Repo")
            files = {name: hub.large.get(str(held), held) for name, held in hub.models[found[1]].items()}
            sizes = {name: hub.sizes.get(name, len(held)) if found[2] else None for name, held in files.items()}
            listed = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            return self.answer(200, {"id": found[1], "sha": hub.commit(found[1]), "siblings": listed})
        if found := re.fullmatch(r"/large/(\w+)/(.+)", self.path):
            assert "Authorization" not in self.headers, "a login for the hub went to where its files lie"
            return self.answer(200, self.on_its_way(hub.large[found[1]], found[2]))
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", self.path)
        if found is None:  # what its client asks besides
            return self.answer(404)
        name, revision, file = found.groups()
        if revision != hub.commit(name):
            return self.missing("Revision")
        if file not in hub.models[name]:
            return self.missing("Entry")
        content = hub.models[name][file]
        headers = {"X_Repo_Commit": revision}
        if isinstance(content, str):
            size = str(len(hub.large[content]))
            host = hub.url.replace("127.0.0.1", "localhost")  # another one, as the real hub's is
            headers |= {"X_Linked_Etag": f'"{content}"', "X_Linked_Size": size}
            return self.answer(302, None, Location=f"{host}/large/{content}/{file}", **headers)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.answer(200, self.on_its_way(content, file), ETag=etag, **headers)

    do_HEAD = do_GET  # noqa: N815

    def on_its_way(self, content: bytes, file: str) -> bytes:
        if file != self.hub.flipped:
            return content
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """What makes the hub's client ask this one, with a login."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "XDG_DATA_HOME": str(home),
        "NO_PROXY": "*",
        "PYTHONPATH": str(ROOT),
    }
