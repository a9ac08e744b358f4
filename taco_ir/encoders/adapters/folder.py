"""A tuned model's folder: `tuning.json`, `tuning.safetensors` and taco_ir.json; the backbone stays where it is, or is a folder in it.

The base is named and its hash kept, so that the modules never run on another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import InputError, fingerprint, read_json, write_json
from taco_ir.encoders.adapters import routing
from taco_ir.encoders.adapters.sizes import METHODS, PLAIN, SHIFTED
from taco_ir.encoders.config import ANY_TASK

if TYPE_CHECKING:
    from torch import Tensor

    from taco_ir.encoders.adapters.adapted import Tuning

RECORD_FILE, TENSORS_FILE = "tuning.json", "tuning.safetensors"
TRAINING_FILE = "training.safetensors"  # in checkpoints of a training, where what trains is not what is stored
BACKBONE = "backbone"  # the base's folder in one that holds both
BARE = "none"  # what is lent where queries go through the backbone alone


@dataclass(frozen=True)
class TuningRecord:
    """What `tuning.json` says.

    Attributes:
        tasks: those that have a module of their own.
        frozen: modules that training leaves as they are.
        base: folder or hub name of the backbone; a relative one is in the model's own folder.
        digest: of its weights, configuration and tokenizer.
        lent: task without a module (`*`: all others) -> the task whose module reads its queries, or `none`.
        positions: of texts behind prompts, where they are not the method's own (see `counts.POSITIONS`).
    """

    method: str
    width: int
    roles: str
    tasks: tuple[str, ...]
    frozen: tuple[str, ...]
    base: str
    digest: str
    lent: Mapping[str, str] = field(default_factory=dict)
    positions: str = ""

    @property
    def names(self) -> list[str]:
        """The modules that the folder holds."""
        return routing.names(self.roles, self.tasks)

    def query_module(self, task: str | None) -> str | None:
        """The module that reads queries of `task`, or is lent to them; None: the backbone alone. Raises: InputError where there is none."""
        if task not in self.tasks:
            task = self.lent.get(task or ANY_TASK, self.lent.get(ANY_TASK, task))
        return None if task == BARE else routing.query_module(self.roles, self.tasks, task)

    def lending(self, lenders: Mapping[str, str]) -> TuningRecord:
        """The same for more tasks. Raises: InputError for a lender without a module, or a task that has one."""
        for task, lender in lenders.items():
            if task in self.tasks or lender not in (*self.tasks, BARE):
                fault = "has a module of its own" if task in self.tasks else f"is to take the module of {lender!r}, which has none"
                raise InputError(
                    f"task {task!r} {fault}; the model's modules are for {', '.join(sorted(self.tasks))}; {BARE} is none of them"
                )
        return replace(self, lent={**self.lent, **lenders})

    def save(self, folder: Path) -> None:
        values = asdict(self)
        if not self.positions:
            del values["positions"]
        write_json(folder / RECORD_FILE, values)


def is_tuned(folder: Path) -> bool:
    return (folder / RECORD_FILE).is_file()


def read_record(folder: Path) -> TuningRecord:
    """Raises: InputError for a file that says something else."""
    path = folder / RECORD_FILE
    values = read_json(path)
    types = {"method": str, "width": int, "roles": str, "tasks": list, "frozen": list, "base": str, "digest": str}
    types |= {"lent": dict, "positions": str}
    known = [entry.name for entry in fields(TuningRecord)]
    if isinstance(values, dict):
        values = {"lent": {}, "positions": ""} | values  # which not all folders say
    if not isinstance(values, dict) or set(values) != set(known) or any(type(values[key]) is not kind for key, kind in types.items()):
        raise InputError(f"{path}: a JSON object is needed, with the keys {', '.join(known)}")
    for key, allowed in (("method", METHODS), ("roles", routing.ROLES), ("positions", ("", SHIFTED, PLAIN))):
        if values[key] not in allowed:
            raise InputError(f"{path}: {key} is {values[key]!r}; valid: {', '.join(allowed)}")
    return TuningRecord(**values | {key: tuple(values[key]) for key in ("tasks", "frozen")})


def base_name(folder: Path, record: TuningRecord) -> str:
    """Where the base is found from anywhere: a hub's name, or a folder, the one inside `folder` if that has it."""
    inside = folder / record.base
    return str(inside.resolve()) if inside.is_dir() else record.base


def base_folder(folder: Path, given: str | None = None) -> Path:
    """The backbone that the modules in `folder` were trained on.

    Args:
        given: where it is, if not where it was.

    Raises:
        InputError: where it is not found, or is another one.
    """
    from taco_ir.encoders.text_encoder import model_folder, weights_digest

    record = read_record(folder)
    name = given or base_name(folder, record)
    try:
        found = model_folder(name)
    except InputError as error:
        raise InputError(
            f"{folder}: its base model {name!r} is not found; say where it is by --base FOLDER, or as base in {folder / RECORD_FILE}"
        ) from error
    digest = "another tuned model" if is_tuned(found) else weights_digest(found)
    if digest != record.digest:
        raise InputError(f"{folder}: its modules belong to the base {record.base!r} with the hash {record.digest}; {found} has {digest}")
    return found


def save(tuning: Tuning, record: TuningRecord, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.cpu().contiguous() for name, tensor in tuning.stored().items()}, folder / TENSORS_FILE)
    record.save(folder)


def save_training(tuning: Tuning, folder: Path) -> None:
    """Write beside the model in `folder` what trains of modules that are reparameterised, if any are, so that the training can go on."""
    from safetensors.torch import save_file

    trained = {name: tensor for name, tensor in tuning.named_tensors().items() if module_of(name) in tuning.reparameterised}
    if trained:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in trained.items()}, folder / TRAINING_FILE)


def read_training(folder: Path) -> dict[str, Tensor]:
    """What `save_training` wrote; nothing where it wrote nothing. Raises: InputError for a broken file."""
    return read_tensors(folder, TRAINING_FILE) if (folder / TRAINING_FILE).is_file() else {}


def module_of(tensor: str) -> str:
    """The module that a tensor belongs to, by its name."""
    return tensor.partition(".")[0]


def read_tensors(folder: Path, file: str = TENSORS_FILE) -> dict[str, Tensor]:
    """Raises: InputError for a file that is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / file
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def load_tuning(backbone: Any, folder: Path) -> Tuning:
    """The modules in `folder`, on their backbone. Raises: InputError for tensors that do not fit."""
    from taco_ir.encoders.adapters.adapted import Tuning

    record = read_record(folder)
    tuning = Tuning(backbone, record.method, record.width, record.names, record.positions)
    tuning.load(read_tensors(folder), str(folder / TENSORS_FILE))
    return tuning


def module_digest(record: TuningRecord, tensors: Mapping[str, Tensor], name: str | None) -> str:
    """Hash of the base and of one module: what vectors that it makes depend on, whatever the other modules are. Of none: the base's."""
    import hashlib

    if name is None:
        return record.digest
    parts = [record.digest, record.method, str(record.width), *([record.positions] if record.positions else [])]
    for key in sorted(key for key in tensors if key.startswith(f"{name}.")):
        parts.append(hashlib.sha256(tensors[key].detach().cpu().contiguous().numpy().tobytes()).hexdigest())
    return fingerprint(parts)
