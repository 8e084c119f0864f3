"""A stub of the Hugging Face Hub on 127.0.0.1: it accepts repositories and commits.

It implements the part of the hub's HTTP interface that `huggingface_hub` needs to create a
repository and commit files, small ones within the commit and large ones by git-LFS.
"""

import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.http_server import Reply, Request, serving

TOKEN = "hf_of_this_test_alone"


@dataclass
class Hub:
    """What the hub received, and which requests are to fail."""

    url: str = ""
    fail: dict[str, int] = field(default_factory=dict)
    """Part of a path → status of the replies to requests with it."""
    created: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Repository → the request that created it."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Repository → its files."""
    tokens: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)

    def answer(self, path: str, body: bytes, token: str) -> tuple[int, Any]:
        self.requests.append(path)
        self.tokens.add(token)
        for part, status in self.fail.items():
            if part in path:
                return status, {"error": "as the test wants it"}
        if path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made['organization']}/{made['name']}" if "organization" in made else ""
            kind = made.get("type", "model")
            known = name in self.created
            # Clients before 2.0 of huggingface_hub send "private" instead.
            made.setdefault("visibility", "private" if made.get("private") else "public")
            self.created.setdefault(name, made)
            place = name if kind == "model" else f"{kind}s/{name}"
            return 409 if known else 200, {"url": f"{self.url}/{place}", "id": name}
        if "/preupload/" in path:
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            return 200, {
                "files": [
                    {
                        "path": name,
                        "uploadMode": modes[name.endswith(".safetensors")],
                        "shouldIgnore": False,
                    }
                    for name in asked
                ]
            }
        if path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            return 200, {
                "transfer": "basic",
                "objects": [
                    {**o, "actions": {"upload": {"href": f"{self.url}/lfs/{o['oid']}"}}}
                    for o in wanted
                ],
            }
        if path.startswith("/lfs/"):
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}
        if "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            found = self.files.setdefault(name, {})
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    found[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    found[value["path"]] = self.large[value["oid"]]
            return 200, {"commitUrl": f"{self.url}/{name}/commit/1a2b", "commitOid": "1a2b"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        return 404, {"error": f"the stand-in has no {path}"}


def read_folder(folder: Path) -> dict[str, bytes]:
    """Contents of a folder's files by relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Run the hub until the block ends."""
    hub = Hub()

    def answer(request: Request) -> Reply:
        token = request.headers.get("authorization", "")
        status, document = hub.answer(request.path.split("?")[0], request.body, token)
        kind = ("Content-Type", "application/json")
        return Reply(status, json.dumps(document).encode(), (kind,))

    with serving(answer) as hub.url:
        yield hub
