"""Models are pushed and pulled byte for byte; a loopback server speaks as much of a hub's API as that takes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import numpy as np
import pytest
import torch
from adapter_models import saved
from huggingface_hub import constants

from taco_ir.core.files import InputError, write_json
from taco_ir.core.types import Passage
from taco_ir.encoders.config import EncoderConfig
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.pull import main as pull
from taco_ir.push import main as push
from taco_ir.search import main as search
from taco_ir.training.base_model import start_encoder
from taco_ir.training.folder import load_settings, save_settings
from taco_ir.training.settings import TrainSettings

NAME = "somebody/my-model"
TOKEN = "hf_write"
LFS = (".safetensors", ".bin")
Contents = dict[str, bytes]
QUERIES, PASSAGES = ["who wrote the suites", "a claim"], [Passage("1#0", "a text about suites", "Bach", "1")]


@dataclass
class Repo:
    """A repository: commits by their hash, branches by name."""

    name: str
    private: bool = False
    commits: dict[str, Contents] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Contents, branch: str = "main", message: str = "initial commit") -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {files}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    """What the server has and does."""

    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # LFS objects by SHA-256
    url: str = ""
    asked: list[str] = field(default_factory=list)  # paths of files that were downloaded
    cuts: dict[str, list[int]] = field(
        default_factory=dict
    )  # bytes after which a download of a file ends, one a request
    wrong: dict[str, bytes] = field(default_factory=dict)  # what is sent instead of a file

    def holding(self, files: Contents, name: str = NAME) -> Repo:
        self.repos[name] = repo = Repo(name)
        repo.commit({".gitattributes": b"", **files})
        return repo

    @property
    def files(self) -> Contents:
        """The model that the main branch holds."""
        repo = self.repos[NAME]
        return {path: data for path, data in repo.commits[repo.branches["main"]].items() if path != ".gitattributes"}


def oid(data: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, code: int, value: Any = None, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            for key, each in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key.replace("_", "-"), each)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            return data

        def repo(self, name: str) -> Repo | None:
            """The repository, if it is there and open to who asks; else the answer is given."""
            found = hub.repos.get(name)
            if found is None or (found.private and not self.allowed()):
                self.answer(404 if self.allowed() else 401, {}, X_Error_Code="RepoNotFound")
                return None
            return found

        def allowed(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            if found := re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/(revision|tree)/(.+))?", path):
                if (repo := self.repo(found[1])) is None:
                    return
                sha = repo.at(found[3] or "main")
                if sha is None:
                    self.answer(404, {}, X_Error_Code="RevisionNotFound")
                elif found[2] == "tree":
                    self.answer(200, [described(*each) for each in repo.commits[sha].items()])
                else:
                    files = repo.commits[sha]
                    names = [{"rfilename": each} for each in files]
                    tags = re.findall(r"^- ([\w-]+)$", files.get("README.md", b"").decode(), re.MULTILINE)
                    self.answer(
                        200, {"id": found[1], "sha": sha, "private": repo.private, "siblings": names, "tags": tags}
                    )
            elif found := re.fullmatch(r"/(\w+/[\w-]+)/resolve/([^/]+)/(.+)", path):
                self.file(*found.groups())
            else:
                self.answer(404, {})

        do_HEAD = do_GET

        def file(self, name: str, revision: str, path: str) -> None:
            if (repo := self.repo(name)) is None:
                return
            sha = repo.at(revision) or ""
            data = repo.commits.get(sha, {}).get(path)
            if data is None:
                self.answer(404, {}, X_Error_Code="EntryNotFound")
                return
            etag = hashlib.sha256(data).hexdigest() if path.endswith(LFS) else oid(data)
            said = {
                "X-Repo-Commit": sha,
                "ETag": f'"{etag}"',
                "X-Linked-ETag": f'"{etag}"',
                "X-Linked-Size": str(len(data)),
            }
            if self.command == "HEAD":
                self.answer(200, data, **said)
                return
            hub.asked.append(path)
            sent = hub.wrong.get(path, data)
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            if start:
                said["Content-Range"] = f"bytes {start}-{len(sent) - 1}/{len(sent)}"
            cut = hub.cuts[path].pop(0) if hub.cuts.get(path) else None
            self.send_response(206 if start else 200)
            for key, each in {"Content-Length": str(len(sent) - start), **said}.items():
                self.send_header(key, each)
            self.end_headers()
            self.wfile.write(sent[start:cut])

        def do_POST(self) -> None:
            path, data = unquote(self.path.partition("?")[0]), self.body()
            if not self.allowed():
                self.answer(
                    401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials in Authorization header"
                )
            elif path == "/api/validate-yaml":
                self.answer(200, {"warnings": [], "errors": []})
            elif path == "/api/repos/create":
                asked = json.loads(data)
                name = f"{asked['organization']}/{asked['name']}"
                if name in hub.repos:
                    self.answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{name}"})
                    return
                hub.holding({}, name).private = asked.get("visibility") == "private" or bool(asked.get("private"))
                self.answer(200, {"url": f"{hub.url}/{name}", "name": name})
            elif found := re.fullmatch(r"/(\w+/[\w-]+)\.git/info/lfs/objects/batch", path):
                actions = [
                    {**each, "actions": {"upload": {"href": f"{hub.url}/large/{each['oid']}"}}}
                    if each["oid"] not in hub.large
                    else each
                    for each in json.loads(data)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": actions})
            elif found := re.fullmatch(r"/api/models/(\w+/[\w-]+)/(preupload|commit|branch)/(.+)", path):
                if (repo := self.repo(found[1])) is not None:
                    {"preupload": self.preupload, "commit": self.commit, "branch": self.branch}[found[2]](
                        repo, found[3], data
                    )
            else:
                self.answer(404, {})

        def branch(self, repo: Repo, branch: str, data: bytes) -> None:
            known = branch in repo.branches
            repo.branches.setdefault(branch, repo.branches["main"])  # before the answer: the next request comes at once
            self.answer(409 if known else 200, {})

        def preupload(self, repo: Repo, branch: str, data: bytes) -> None:
            there = repo.commits[repo.branches[branch]]
            files = [
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(LFS) else "regular",
                    "shouldIgnore": False,
                    "oid": described(path, there[path])["lfs" if path.endswith(LFS) else "oid"]
                    if path in there
                    else None,
                }
                for path in (each["path"] for each in json.loads(data)["files"])
            ]
            for each in files:
                each["oid"] = each["oid"]["oid"] if isinstance(each["oid"], dict) else each["oid"]
            self.answer(200, {"files": files})

        def commit(self, repo: Repo, branch: str, data: bytes) -> None:
            head, *operations = map(json.loads, data.splitlines())
            if head["value"]["parentCommit"] != repo.branches[branch]:
                self.answer(412, {"error": "A commit has happened since"})
                return
            files = dict(repo.commits[repo.branches[branch]])
            for each in operations:
                value = each["value"]
                if each["key"] == "deletedFile":
                    del files[value["path"]]
                else:
                    content = value.get("content")
                    files[value["path"]] = hub.large[value["oid"]] if content is None else base64.b64decode(content)
            sha = repo.commit(files, branch, head["value"]["summary"])
            self.answer(200, {"commitUrl": f"{hub.url}/{repo.name}/commit/{sha}", "commitOid": sha})

        def do_PUT(self) -> None:
            data = self.body()
            hub.large[hashlib.sha256(data).hexdigest()] = data
            self.answer(200 if self.path.endswith(hashlib.sha256(data).hexdigest()) else 400, {})

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def described(path: str, data: bytes) -> dict[str, Any]:
    """An entry of a tree."""
    large = (
        {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
        if path.endswith(LFS)
        else {}
    )
    return {"type": "file", "path": path, "size": len(data), "oid": oid(data), **large}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, which `huggingface_hub` takes for its own, with an empty cache and a token that may write."""
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(made))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    use_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))


@pytest.fixture
def model(tiny_bert: Path, tmp_path: Path) -> Path:
    """A whole model with prompts."""
    folder = shutil.copytree(tiny_bert, tmp_path / "whole")
    EncoderConfig("mean", True, {"nq": "NQ [SEP] ", "*": "other: "}, 40, {}, 60).save(folder)
    return folder


def contents(folder: Path) -> Contents:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def texts(folder: Path) -> Contents:
    """Files of a model, without the card, which a push makes or completes."""
    return {path: data for path, data in contents(folder).items() if path != "README.md"}


def vectors(model: Path | str, task: str | None = "nq") -> np.ndarray:
    encoder = load_encoder(str(model))
    return np.concatenate([encoder.encode_queries(QUERIES, task), encoder.encode_passages(PASSAGES)])


def refused(verb: Any, *argv: object) -> str:
    with pytest.raises(InputError) as caught:
        verb([str(each) for each in argv])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_comes_back_byte_for_byte(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push([str(model), NAME, "--message", "the first one"])
    said = capsys.readouterr().out
    assert f"{hub.url}/{NAME}/commit/" in said and "model.safetensors" in said
    assert hub.repos[NAME].messages[-1] == "the first one" and not hub.repos[NAME].private
    pull([NAME, "--output", "pulled"])
    assert capsys.readouterr().out == "pulled\n"
    assert contents(Path("pulled")) == hub.files and texts(Path("pulled")) == texts(model)
    assert np.array_equal(vectors("pulled"), vectors(model)) and np.array_equal(vectors(NAME), vectors(model))
    asked = len(hub.asked)
    pull([NAME, "--output", "pulled"])  # it is there
    assert len(hub.asked) == asked
    commits = len(hub.repos[NAME].commits)
    push(["pulled", NAME])  # nothing is new, the card included
    assert len(hub.repos[NAME].commits) == commits


def test_the_shipped_encoder_two_towers_and_adapters_come_back(
    hub: Hub, model: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    towers = tmp_path / "towers"
    for tower in ("query", "passage"):
        shutil.copytree(model, towers / tower)
    (towers / "query" / "taco_ir.json").write_text((model / "taco_ir.json").read_text().replace("NQ", "Q"))
    adapters = saved(tmp_path / "adapters", tiny_bert)
    for given in ("taco-mini", towers, adapters):
        hub.repos.clear()
        folder = f"pulled-{Path(given).name}"
        push([str(given), NAME])
        pull([NAME, "--output", folder])
        task = "wned" if given == "taco-mini" else "nq"
        assert np.array_equal(vectors(folder, task), vectors(given, task))
        assert contents(Path(folder)) == hub.files
    assert json.loads(hub.files["tuning.json"])["base"] == "backbone"  # it was a folder elsewhere, and went along
    assert hub.files["backbone/model.safetensors"] == (tiny_bert / "model.safetensors").read_bytes()


def test_the_folder_of_a_training_is_its_model_with_the_recipe(hub: Hub, tiny_bert: Path, tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    base = shutil.copytree(tiny_bert, tmp_path / "minilm-l6")
    config = TrainSettings(
        tasks=("nq",), model=str(base), output=str(run), pooling="mean", passage_length=60, steps=7, batch_size=12
    )
    run.mkdir()
    save_settings(config, run)
    write_json(run / "inputs.json", {})
    assert "the training has not ended" in refused(push, run, NAME)
    start_encoder(load_settings(run), base, ("nq",)).save(run / "model")
    push([str(run), NAME])
    assert hub.files.keys() == {*contents(run / "model"), "README.md"}
    card = huggingface_hub.RepoCard(hub.files["README.md"].decode())
    assert card.data.to_dict() == {
        "tags": ["taco-ir", "multi-task-retrieval", "sentence-similarity"],
        "library_name": "taco-ir",
        "pipeline_tag": "sentence-similarity",
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "tasks": ["nq"],
        "prompts": {"nq": "NQ <extra_id_1> "},
    }
    assert f"python -m taco_ir.pull {NAME} --output my-model" in card.text and "vectors of 32 numbers" in card.text
    assert "| queries a step | 12, " in card.text and '| nq | "NQ ' in card.text
    push([str(run / "model"), NAME])
    assert hub.files["README.md"].decode() == str(card)
    pull([NAME, "--output", "my-model"])
    (command,) = re.findall("python -m taco_ir.search (.*)", card.text)
    search(shlex.split(command))  # a query of a task that it knows


def test_a_card_of_ones_own_stays(hub: Hub, model: Path) -> None:
    own = "---\nlicense: mit\ntags:\n- my-tag\ntasks: mine\n---\n# My page\n"
    (model / "README.md").write_text(own)
    push([str(model), NAME])
    card = huggingface_hub.RepoCard(hub.files["README.md"].decode())
    assert card.text == "# My page\n" and card.data.tasks == "mine" and card.data.license == "mit"
    assert card.data.tags == ["my-tag", "taco-ir", "multi-task-retrieval", "sentence-similarity"]
    (model / "README.md").write_text("# A page without front matter\n")
    push([str(model), NAME])
    assert b"\n---\n# A page without front matter\n" in hub.files["README.md"]
    (model / "README.md").write_text("---\ntags: single\n---\n")
    push([str(model), NAME])
    assert b"tags:\n- single\n- taco-ir\n" in hub.files["README.md"]
    for broken in (b"---\nlicense: [mit\n---\n", b"---\n- a list\n---\n", b"---\n1: one\n---\n", b"\xff"):
        (model / "README.md").write_bytes(broken)
        assert "README.md: its front matter" in refused(push, model, NAME)


def test_a_dry_run_sends_nothing(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "train.py").write_text("code")
    push([str(model), NAME, "--dry-run", "--private"])
    said = capsys.readouterr().out
    assert not hub.repos and "library_name: taco-ir" in said
    assert re.search(r"[\d,]+ bytes  model.safetensors\n", said) and "left out: pytorch_model.bin, train.py\n" in said


def test_a_push_leaves_one_model(hub: Hub, model: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """An earlier one's files go in the same commit, others stay; another's model is not replaced unasked."""
    adapters = saved(tmp_path / "adapters", tiny_bert)
    push([str(adapters), NAME])
    repo = hub.repos[NAME]
    repo.commit({**hub.files, "figure.png": b"picture"})
    push([str(model), NAME])
    assert hub.files.keys() == {*contents(model), "README.md", "figure.png"}
    hub.holding({"model.safetensors": b"another's", "README.md": b"---\ntags:\n- bert\n---\n"})
    assert "holds a model that taco_ir did not push" in refused(push, model, NAME)
    push([str(model), NAME, "--overwrite"])
    assert hub.files.keys() == {*contents(model), "README.md"}


def test_branches_and_private_repositories(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push([str(model), NAME, "--private"])
    assert hub.repos[NAME].private
    (model / "taco_ir.json").write_text((model / "taco_ir.json").read_text().replace("NQ", "Q"))
    push([str(model), NAME, "--revision", "second"])
    for revision, prompt in (("second", "Q [SEP] "), ("main", "NQ [SEP] ")):
        pull([NAME, "--revision", revision, "--output", revision])
        assert json.loads((Path(revision) / "taco_ir.json").read_text())["prompts"]["nq"] == prompt
    assert f"it has no revision 'third' at {hub.url}" in refused(pull, NAME, "--revision", "third", "--output", "third")
    hub.repos[NAME].private = False
    assert "--private: somebody/my-model exists and is public" in refused(push, model, NAME, "--private")
    hub.repos[NAME].private = True
    monkeypatch.delenv("HF_TOKEN")
    use_cache(monkeypatch, Path("another-cache").resolve())
    assert "or it is private and your token does not open it" in refused(pull, NAME, "--output", "none")


def test_what_is_no_name_no_token_and_no_network_is_one_line(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "my model: not a valid name on a hub" in refused(push, model, "my model")
    assert "my-model: the owner is missing; give ORG/my-model" in refused(push, model, "my-model")
    assert f"{NAME}: no such model at {hub.url}" in refused(pull, NAME, "--output", "out")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert f"{hub.url} refuses your token; give a token with enough rights" in refused(push, model, NAME)
    monkeypatch.delenv("HF_TOKEN")
    assert f"no token for {hub.url}: run `hf auth login`, or set HF_TOKEN" in refused(push, model, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, so nothing can be pushed" in refused(push, model, NAME)
    assert not hub.repos and not Path("out").exists()


def test_a_hub_that_cannot_be_reached_is_told_whatever_the_cache_has(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push([str(model), NAME])
    pull([NAME])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    for verb, *argv in ((pull, NAME, "--output", "out"), (push, model, NAME)):
        assert f"{NAME}: http://127.0.0.1:1 cannot be reached (" in refused(verb, *argv)
    assert not Path("out").exists()


def test_offline_takes_what_the_cache_has(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push([str(model), NAME])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused(pull, NAME, "--output", "out")
    assert (
        said.startswith(f"{NAME}: HF_HUB_OFFLINE is set, and the hub's cache, ") and "does not have all files" in said
    )
    assert "it could not be fetched from the hub (somebody/my-model: HF_HUB_OFFLINE is set" in said_of_loading(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pull([NAME])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pull([NAME, "--output", "out"])
    assert contents(Path("out")) == hub.files
    assert np.array_equal(vectors(NAME), vectors(model))
    next(Path("cache").rglob("taco_ir.json")).unlink()
    assert "does not have all files of this model" in refused(pull, NAME, "--output", "other")


def test_a_hubs_name_is_found_by_a_process_that_imports_nothing_else(hub: Hub, model: Path, tmp_path: Path) -> None:
    push([str(model), NAME])
    code = f"from taco_ir.encoders.names import locate; print(locate('{NAME}'))"
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "new"), "HF_HUB_OFFLINE": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert contents(Path(done.stdout.strip())) == hub.files


def said_of_loading(name: str) -> str:
    with pytest.raises(InputError) as caught:
        load_encoder(name)
    return str(caught.value)


def test_a_download_that_is_cut_off_goes_on(hub: Hub, model: Path) -> None:
    push([str(model), NAME])
    hub.cuts["model.safetensors"] = [1000]
    pull([NAME, "--output", "out"])
    assert contents(Path("out")) == hub.files and hub.asked.count("model.safetensors") == 2


@pytest.mark.parametrize("fault", ["shorter", "other bytes", "other text"])
def test_a_file_that_arrives_damaged_is_named(hub: Hub, model: Path, fault: str) -> None:
    push([str(model), NAME])
    path = "config.json" if fault == "other text" else "model.safetensors"
    whole = hub.files[path]
    hub.wrong[path] = whole[:-8] if fault == "shorter" else whole[:-8] + b"damaged}"
    said = refused(pull, NAME, "--output", "out")
    assert path in said and ("should be of size" if fault == "shorter" else "was damaged in transfer") in said
    assert not Path("out").exists()
    hub.wrong.clear()
    asked = len(hub.asked)
    pull([NAME, "--output", "out"])
    assert contents(Path("out")) == hub.files and hub.asked[asked:] == [path]  # the others were in the cache


def test_no_pickle_and_no_code_is_downloaded(hub: Hub, model: Path) -> None:
    foreign = {"pytorch_model.bin": b"pickle", "modeling_x.py": b"code", "2_Dense/pytorch_model.bin": b"pickle"}
    hub.holding({**contents(model), **foreign})
    pull([NAME, "--output", "out"])
    assert contents(Path("out")) == contents(model) and not {*hub.asked} & {*foreign}
    assert not list(Path("cache").rglob("*.bin")) and not list(Path("cache").rglob("*.py"))


def test_pickled_weights_alone_are_told_with_the_way_to_convert_them(hub: Hub, model: Path) -> None:
    files = {path: data for path, data in contents(model).items() if path != "model.safetensors"}
    hub.holding({**files, "pytorch_model.bin": b"pickle"})
    said = refused(pull, NAME, "--output", "out")
    assert f"{NAME}: its weights are pickled (pytorch_model.bin)" in said
    assert f"from_pretrained('{NAME}').save_pretrained('FOLDER')" in said
    assert "its weights are pickled" in said_of_loading(NAME)
    hub.holding(files)
    assert f"{NAME}: it has no .safetensors file" in refused(pull, NAME, "--output", "out")


def test_an_output_of_something_else_stays(hub: Hub, model: Path) -> None:
    push([str(model), NAME])
    Path("kept").write_text("precious")
    assert refused(pull, NAME, "--output", "kept") == "--output kept is a file; give a folder"
    pull([NAME, "--output", "out"])
    (Path("out") / "config.json").write_text("{}")
    assert "--output out exists and was made differently (files config.json is " in refused(
        pull, NAME, "--output", "out"
    )
    pull([NAME, "--output", "out", "--overwrite"])
    assert contents(Path("out")) == hub.files


def test_what_is_no_trained_model_is_not_pushed(hub: Hub, model: Path, tiny_bert: Path) -> None:
    assert "without taco_ir.json or modules.json" in refused(push, tiny_bert, NAME)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert f"{weights}: cannot be read" in refused(push, model, NAME)
    weights.unlink()
    torch.save({}, model / "pytorch_model.bin")
    assert "pickled weights are not read" in refused(push, model, NAME)
    assert not hub.repos
