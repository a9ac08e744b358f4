"""The files of a folder of adapters: tuning.json, tuning.safetensors, taco_ir.json. The backbone may be elsewhere.

The backbone's name and hash are recorded, so that adapters never run on a different backbone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.hashes import fingerprint
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.adapters.methods import METHODS, PLAIN, SHIFTED, mergeable
from taco_ir.encoders.config import ANY_TASK
from taco_ir.encoders.weights import read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

QUERY_FROZEN = "query-frozen"
# shared: one adapter for all texts; tower: one for queries, one for passages; task: one for queries of each task, one
# for passages; task-frozen: as task, but none for passages; query-frozen: one for queries, none for passages
ROLES = ("shared", "tower", "task", "task-frozen", QUERY_FROZEN)
RECORD_FILE, TENSORS_FILE = "tuning.json", "tuning.safetensors"
TRAINING_FILE = "training.safetensors"  # in checkpoints, if trained tensors differ from stored ones
BARE = "none"  # the lender of tasks that use the backbone alone
SHARED, QUERY, PASSAGE = "shared", "query", "passage"


@dataclass(frozen=True)
class AdapterRecord:
    """The content of `tuning.json`: the method, which texts use which adapter, and the backbone.

    Attributes:
        roles: which texts share an adapter, one of ROLES.
        tasks: the tasks with their own adapter; for query-frozen, the tasks that its adapter was trained on.
        frozen: adapters that are not trained.
        base: folder or hub name of the backbone; a relative path is inside the model's folder.
        digest: hash of the backbone's weights, configuration and tokenizer.
        lent: for tasks without an adapter (`*`: all others), the task whose adapter is used for queries, or `none`.
        positions: where position ids of texts start, as in `methods.positions_of`; empty: the method's default.
    """

    method: str
    width: Annotated[int, 0]
    roles: str
    tasks: tuple[str, ...]
    frozen: tuple[str, ...]
    base: str
    digest: str
    lent: Mapping[str, str] = field(default_factory=dict)
    positions: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the adapters."""
        if self.roles == "shared":
            return [SHARED]
        if self.roles == "tower":
            return [QUERY, PASSAGE]
        if self.roles == QUERY_FROZEN:
            return [QUERY]
        return [*map(_adapter_of_task, self.tasks), *([PASSAGE] if self.roles == "task" else [])]

    @property
    def mergeable(self) -> bool:
        """Whether all texts use the same adapter, and it can be merged into the backbone's weights."""
        return self.roles == SHARED and self.method in mergeable()

    @property
    def merges_queries(self) -> bool:
        """Whether all queries use one adapter that can be merged into the weights, and passages use no adapter."""
        return self.roles == QUERY_FROZEN and self.method in mergeable() and not self.lent

    @property
    def passage_adapter(self) -> str | None:
        """Name of the adapter for passages; None: passages use only the backbone."""
        return {"shared": SHARED, "task-frozen": None, QUERY_FROZEN: None}.get(self.roles, PASSAGE)

    def query_adapter(self, task: str | None) -> str | None:
        """Return the name of the adapter for queries of `task`, its own or another task's; None if the backbone encodes
        them without an adapter. Raises: InputError for an unknown task.
        """
        if task not in self.tasks:
            task = self.lent.get(task or ANY_TASK, self.lent.get(ANY_TASK, task))
        return None if task == BARE else self.own_adapter(task)

    def own_adapter(self, task: str | None) -> str:
        """Return the name of the adapter trained for queries of `task`. Raises: InputError if the task has none."""
        if self.roles in ("shared", "tower", QUERY_FROZEN):
            return SHARED if self.roles == "shared" else QUERY
        if task is None or task not in self.tasks:
            known = ", ".join(sorted(self.tasks))
            raise InputError(f"the model has adapters for queries of tasks {known}, but not of task {task!r}")
        return _adapter_of_task(task)

    def with_lenders(self, lenders: Mapping[str, str]) -> AdapterRecord:
        """Return a copy in which tasks borrow adapters; `lenders` maps borrowers to lenders. Raises: InputError."""
        for task, lender in lenders.items():
            if task in self.tasks:
                raise InputError(f"task {task!r} has its own adapter and cannot borrow from {lender!r}; leave it out")
            if lender not in (*self.tasks, BARE):
                raise InputError(
                    f"task {task!r} cannot borrow an adapter of {lender!r}, which has none; tasks with adapters:"
                    f" {', '.join(sorted(self.tasks))}; {BARE} stands for no adapter"
                )
        return replace(self, lent={**self.lent, **lenders})

    def save(self, folder: Path) -> None:
        values = asdict(self)
        if not self.positions:
            del values["positions"]
        write_json(folder / RECORD_FILE, values)


def _adapter_of_task(task: str) -> str:
    return f"task {task}".replace(".", "-")  # a dot separates an adapter's name from its tensors'


def adapter_of(tensor: str) -> str:
    """Return the name of the adapter that a tensor belongs to, from the tensor's name."""
    return tensor.partition(".")[0]


def read_record(folder: Path) -> AdapterRecord:
    """Read `tuning.json`. Raises: InputError for an unknown key, or a value that is not allowed."""
    path = folder / RECORD_FILE
    record = read_json(path, AdapterRecord)
    for key, allowed in (("method", METHODS), ("roles", ROLES), ("positions", ("", SHIFTED, PLAIN))):
        if (given := getattr(record, key)) not in allowed:
            raise InputError(f"{path}: {key} is {abbreviate(given)}; valid: {', '.join(allowed)}")
    return record


def read_training(folder: Path) -> dict[str, Tensor]:
    """Return the tensors that `Adapters.save_training` wrote, {} without a file. Raises: InputError if damaged."""
    path = folder / TRAINING_FILE
    return read_safetensors(path) if path.is_file() else {}


def adapter_digest(record: AdapterRecord, tensors: Mapping[str, Tensor], name: str | None) -> str:
    """Return a hash of all that vectors with the adapter `name` depend on; with None, only of the backbone."""
    if name is None:
        return record.digest
    parts = [record.digest, record.method, str(record.width), *([record.positions] if record.positions else [])]
    for key in sorted(key for key in tensors if key.startswith(f"{name}.")):
        parts.append(hashlib.sha256(tensors[key].detach().cpu().contiguous().numpy().tobytes()).hexdigest())
    return fingerprint(parts)
