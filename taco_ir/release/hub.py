"""Pushes model folders with a model card to a Hugging Face hub, and pulls them from there.

Safetensors, configurations, tokenizers and texts are transferred; pickles and code are not (`names.HUB_FILES`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, is_leftover, read_json, require_writable, writing_folder
from taco_ir.core.hashes import sha256_file
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import log
from taco_ir.encoders.adapters.folder import RECORD_FILE
from taco_ir.encoders.model_folder import WEIGHTS, ModelFolder
from taco_ir.encoders.names import BACKBONE, HUB_FILES, fetch, hub_errors
from taco_ir.release.hub_card import TAG, hub_card
from taco_ir.release.model_card import CARD_FILE


class Shipment(NamedTuple):
    """The files that a push sends.

    Attributes:
        files: by path in the repository: a local file, or the bytes to write there.
        card: the content of README.md.
        left_out: files of the model folder that are not sent.
    """

    files: Mapping[str, Path | bytes]
    card: str
    left_out: list[str]

    def sizes(self) -> dict[str, int]:
        """Returns the size of each file in bytes, by path in the repository."""
        return {
            path: len(each) if isinstance(each, bytes) else each.stat().st_size
            for path, each in sorted(self.files.items())
        }


def gather(model: str, name: str) -> Shipment:
    """Gather the files that a push of a model to the repository `name` sends.

    Args:
        model: a model as for --model, or the folder of a training. If the backbone of adapters is in another folder,
            the backbone is sent too, as the folder `backbone`.

    Raises:
        InputError: for a folder without a trained model, for damaged weights, or for an invalid name.
    """
    from huggingface_hub.utils import validate_repo_id

    with hub_errors(name):
        validate_repo_id(name)
    if "/" not in name:
        raise InputError(
            f"{name}: the owner is missing; give ORG/{name}, where ORG is your name on the hub or an organisation's"
        )
    folder = ModelFolder.find(model)
    every = _files(folder.path)
    files: dict[str, Path | bytes] = {path: file for path, file in every.items() if _travels(path)}
    if (record := folder.record) is not None:
        base = folder.path / record.base
        if base.is_dir() and not base.resolve().is_relative_to(folder.path.resolve()):
            backbone = _files(folder.backbone().path)
            files |= {f"{BACKBONE}/{path}": file for path, file in backbone.items() if _travels(path)}
            said = read_json(folder.path / RECORD_FILE, dict[str, Any]) | {"base": BACKBONE}
            files[RECORD_FILE] = f"{json.dumps(said, indent=1, ensure_ascii=False)}\n".encode()
    card = hub_card(folder, name)
    files[CARD_FILE] = card.encode()
    for file in files.values():
        if isinstance(file, Path) and file.name.endswith(WEIGHTS):
            _require_whole(file)
    return Shipment(files, card, [path for path in every if path not in files])


def _files(folder: Path) -> dict[str, Path]:
    """All files under a folder by relative path, without hidden ones and what an unfinished writer left."""
    found = sorted(glob("**", root_dir=folder, recursive=True))  # noqa: PTH207  (follows links, leaves out hidden ones)
    return {
        path: folder / path
        for path in found
        if (folder / path).is_file() and not any(is_leftover(Path(part)) for part in Path(path).parts)
    }


def _travels(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in HUB_FILES)


def _require_whole(file: Path) -> None:
    """Raise InputError for a weights file that is damaged or incomplete."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error}); save or download it again") from error


def require_access() -> None:
    """Raise InputError if nothing can be pushed: offline, or without a token."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise InputError(
            "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or use --dry-run to see what would be pushed"
        )
    if get_token() is None:
        raise InputError(
            f"no token for {constants.ENDPOINT}: run `hf auth login`, or set HF_TOKEN; create a token with write "
            f"access at {constants.ENDPOINT}/settings/tokens"
        )


def push(
    shipment: Shipment, name: str, private: bool, revision: str | None, message: str | None, overwrite: bool
) -> str:
    """Push a model to the repository `name` in one commit; returns the URL of the commit.

    If the repository holds an earlier model, files that the new model does not have are deleted in the same commit.

    Args:
        private: make a repository that does not exist yet private.
        revision: the branch, created if it does not exist; None: the main branch.
        message: the commit message; None: a default message.
        overwrite: replace a model that was not pushed by taco_ir.

    Raises:
        InputError: if the repository has a model that taco_ir did not push, is public despite `private`, or the hub
            refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    require_access()
    hub = HfApi(library_name=TAG)
    with hub_errors(name, revision):
        hub.create_repo(name, private=private or None, exist_ok=True)
        if revision is not None:
            hub.create_branch(name, branch=revision, exist_ok=True)
        found = hub.model_info(name, revision=revision)
        there = [each.rfilename for each in found.siblings or ()]
        if private and not found.private:
            raise InputError(
                f"--private: {name} exists and is public; make it private at {hub.endpoint}/{name}/settings"
            )
        if not overwrite and TAG not in (found.tags or ()) and any(path.endswith(WEIGHTS) for path in there):
            raise InputError(f"{name} holds a model that taco_ir did not push; give another name or --overwrite")
        adding = [CommitOperationAdd(path, each) for path, each in shipment.files.items()]
        deleting = [CommitOperationDelete(path) for path in there if _travels(path) and path not in shipment.files]
        made = hub.create_commit(
            name,
            [*deleting, *adding],
            commit_message=message or "Push a model of taco_ir",
            revision=revision,
            parent_commit=found.sha,
        )
    return str(made.commit_url)


def pull(name: str, revision: str | None, output: Path | None, overwrite: bool) -> Path:
    """Download a model, check its files, and copy them to `output`; returns that folder, or the one in the hub's cache.

    Complete files of an interrupted pull stay in the cache, so the same command continues after them.

    Raises:
        InputError: for a missing or unusable model, a file damaged in transfer, or an output made from something else.
    """
    from huggingface_hub import HfApi, constants

    if output is not None:
        if output.is_file():
            raise InputError(f"--output {output} is a file; give a folder")
        require_writable(output)
    with hub_errors(name, revision):
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(name, revision=revision)  # fails if the hub cannot be reached, even with a full cache
    folder = fetch(name, revision)
    files = {path: file for path, file in _files(folder).items() if _travels(path)}
    hashes = {path: _checked_hash(name, path, file) for path, file in files.items()}
    for tower in ModelFolder(folder).towers.values():
        try:
            tower.backbone().require_weights()
        except InputError as error:
            if tower.record is None:
                raise
            log.warning("%s", error)  # a search can name the folder with --base
    if output is None:
        return folder
    made_of = {"files": hashes}

    def record() -> Mapping[str, Any]:
        return {"files": {path: sha256_file(file) for path, file in _files(output).items()}}

    with claim_output(output, made_of, overwrite, record=record) as finished:
        if not finished:
            with writing_folder(output) as part:
                for path, file in files.items():
                    (part / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, part / path)
    return output


def _checked_hash(name: str, path: str, file: Path) -> str:
    """Returns the SHA-256 of a file in the hub's cache, in which a link leads to a file that is named by its hash.

    Raises:
        InputError: for a file with another hash; it is removed, so that the next pull downloads it again.
    """
    found = sha256_file(file)
    said = file.readlink().name if file.is_symlink() else ""
    data = b"" if len(said) != hashlib.sha1().digest_size * 2 else file.read_bytes()
    git = hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()
    if said not in ("", found, git):
        file.resolve().unlink()
        file.unlink()
        raise InputError(
            f"{name}: {path} was damaged in transfer (its hash is {found}, but the hub says {said}) and removed; "
            "pull again"
        )
    return found
