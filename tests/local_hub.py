"""A Hub on the loopback interface for the unmodified clients: models, datasets and spaces, kept in memory.

    python tests/local_hub.py zalando-datasets/fashion_mnist=PATH uoft-cs/cifar10=PATH

serves folders as datasets until it is stopped, and says which HF_ENDPOINT to set.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import yaml

KINDS = ("models", "datasets", "spaces")
Answer = tuple[int, Any, dict[str, str]]


class Refused(Exception):
    """An answer that is no success: status, message and the code that the clients look at."""

    def __init__(self, status: int, message: str, code: str = ""):
        self.answer: Answer = (status, {"error": message}, {"X-Error-Code": code} if code else {})


@dataclass
class Repo:
    """Its commits, oldest first: each the whole tree, path -> content, and the title."""

    private: bool = False
    commits: list[tuple[dict[str, bytes], str]] = field(default_factory=lambda: [({}, "initial commit")])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][0]

    def oid(self, number: int = -1) -> str:
        number %= len(self.commits)
        return hashlib.sha1(repr((number, sorted(self.commits[number][0]))).encode()).hexdigest()

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        if revision == "main":
            return self.oid(), self.files
        for number, (files, _) in enumerate(self.commits):
            if revision == self.oid(number):
                return revision, files
        raise Refused(404, f"no revision {revision}", "RevisionNotFound")


def blob_oid(content: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class LocalHub:
    """`users`: token -> name. `fault(method, path)` may return a status, "cut" for a connection that ends midway,
    or "silent" for one that says nothing."""

    users: dict[str, str] = field(default_factory=lambda: {"hf_ann": "ann", "hf_bob": "bob"})
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fault: Callable[[str, str], int | str | None] | None = None
    url: str = ""

    def clear(self) -> None:
        self.repos.clear()
        self.requests.clear()
        self.fault = None

    def add_folder(self, kind: str, name: str, folder: Path) -> None:
        """Publish a folder as it is."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.repos[kind, name] = Repo(commits=[(files, "upload")])

    def who(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if token not in self.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.users[token]

    def repo(self, kind: str, name: str, user: str | None) -> Repo:
        repo = self.repos.get((kind, name))
        if repo is None or (repo.private and user != name.partition("/")[0]):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def may_write(self, name: str, user: str | None) -> None:
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if user != name.partition("/")[0]:
            raise Refused(403, f"Forbidden: {user} has no right to write to {name}")

    def serve(self) -> "LocalHub":
        """Answer from now on, in threads that end with the process."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return self


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: LocalHub, *args: Any):
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_DELETE = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        try:
            fault = self.hub.fault(self.command, path) if self.hub.fault else None
            if fault == "silent":
                threading.Event().wait(1)  # tests that want no pauses take time.sleep away
            if fault in ("cut", "silent"):
                self.connection.close()
                self.close_connection = True
                return
            if fault:
                raise Refused(int(fault), f"fault {fault}")
            status, content, headers = self._route(path, body)
        except Refused as refused:
            status, content, headers = refused.answer
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if isinstance(content, dict) and "error" in content:
            headers |= {"X-Error-Message": content["error"]}
        if isinstance(content, bytes):
            status, data = self._range(status, data, headers)
        else:
            headers |= {"Content-Type": "application/json"}
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _range(self, status: int, data: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return status, data
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return 206, data[first : last + 1]

    def _route(self, path: str, body: bytes) -> Answer:
        user = self.hub.who(self.headers)
        if path == "/api/whoami-v2":
            if user is None:
                raise Refused(401, "Invalid username or password.")
            auth = {"type": "access_token", "accessToken": {"displayName": "t", "role": "write"}}
            return 200, {"type": "user", "name": user, "fullname": user, "orgs": [], "auth": auth}, {}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body), user)
        api = re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?", path)
        if api:
            return self._api(api[1], api[2], api[3] or "", body, user)
        file = re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if file:
            return self._file(file[1] or "models", file[2], file[3], file[4], user)
        raise Refused(404, f"no such page {path}")

    def _validate(self, card: str) -> Answer:
        """A few of the Hub's rules for the head of a card."""
        head = yaml.safe_load(card.split("---")[1])
        known = ("apache-2.0", "mit", "cc-by-4.0", "other")
        named = all(entry.get("name") for entry in head.get("model-index", []))
        if head.get("license") not in known or not named:
            raise Refused(
                400, f"license {head.get('license')!r} must be one of {', '.join(known)}, and models have names"
            )
        return 200, {"errors": [], "warnings": []}, {}

    def _create(self, given: dict[str, Any], user: str | None) -> Answer:
        if user is None:
            raise Refused(401, "Invalid username or password.")
        name = f"{given.get('organization') or user}/{given['name']}"
        self.hub.may_write(name, user)
        kind = f"{given.get('type', 'model')}s"
        prefix = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.hub.url}/{prefix}{name}", "name": name, "id": name}
        if (kind, name) in self.hub.repos:
            return 409, answer | {"error": "You already created this model repo"}, {}
        self.hub.repos[kind, name] = Repo(private=given.get("visibility") == "private")
        return 200, answer, {}

    def _api(self, kind: str, name: str, rest: str, body: bytes, user: str | None) -> Answer:
        repo = self.hub.repo(kind, name, user)
        action, _, rest = rest.partition("/")
        if action in ("", "revision"):
            oid, files = repo.at(rest or "main")
            siblings = [{"rfilename": path} for path in files]
            about = {"id": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []}
            return 200, about | {"lastModified": "2026-01-01T00:00:00.000Z", "downloads": 0, "likes": 0}, {}
        if action == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.oid()}
            return 200, {"branches": [branch], "converts": [], "tags": []}, {}
        if action == "commits":
            return 200, [{"id": repo.oid(i), "title": title} for i, (_, title) in enumerate(repo.commits)][::-1], {}
        if action == "tree":
            revision, _, under = rest.partition("/")
            recursive = parse_qs(urlparse(self.path).query).get("recursive", ["False"])[0].lower() in ("true", "1")
            return 200, _tree(repo.at(revision)[1], under, recursive), {}
        if action == "paths-info":
            asked = parse_qs(body.decode())["paths"] if b"paths=" in body else json.loads(body)["paths"]
            return 200, [entry for entry in _tree(repo.at(rest)[1], "", True) if entry["path"] in asked], {}
        self.hub.may_write(name, user)
        if action == "preupload":
            files = repo.files
            told = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                | ({"oid": blob_oid(files[f["path"]])} if f["path"] in files else {})
                for f in json.loads(body)["files"]
            ]
            return 200, {"files": told}, {}
        if action == "commit":
            return self._commit(repo, name, body)
        raise Refused(404, f"no such endpoint {action}")

    def _commit(self, repo: Repo, name: str, body: bytes) -> Answer:
        files, title = dict(repo.files), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, repo.oid()):
                    raise Refused(412, "a commit has happened since")
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif line["key"] == "deletedFolder":
                files = {path: data for path, data in files.items() if not path.startswith(value["path"])}
        repo.commits.append((files, title))
        url = f"{self.hub.url}/{name}/commit/{repo.oid()}"
        return 200, {"success": True, "commitOid": repo.oid(), "commitUrl": url, "hookOutput": ""}, {}

    def _file(self, kind: str, name: str, revision: str, path: str, user: str | None) -> Answer:
        oid, files = self.hub.repo(kind, name, user).at(revision)
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob_oid(files[path])}"', "Accept-Ranges": "bytes"}
        return 200, files[path], headers


def _tree(files: dict[str, bytes], under: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{under.strip('/')}/" if under.strip("/") else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, data in files.items():
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        if recursive or len(parts) == 1:
            entries[path] = {"type": "file", "path": path, "size": len(data), "oid": blob_oid(data)}
    if prefix and not entries:
        raise Refused(404, "no such folder", "EntryNotFound")
    return list(entries.values())


def main(*given: str) -> None:
    hub = LocalHub()
    for pair in given:
        name, _, folder = pair.partition("=")
        hub.add_folder("datasets", name, Path(folder))
    print(f"HF_ENDPOINT={hub.serve().url}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
