"""What a run was begun with, by content, so that it does not go on with something else: passages, topics, base model, files of negatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from taco_ir.core.files import InputError, fingerprint, read_json, write_json
from taco_ir.core.hashes import sha256_once
from taco_ir.core.tasks import TopicsName
from taco_ir.data.collection import Collection
from taco_ir.training.config import INPUTS_FILE, begun

READ = ("*.safetensors", "*.json", "*.txt", "*.model")  # files of a model folder that a training may read
CARD = "card.json"  # which may be written beside a model later


def inputs_of(collection: Collection, topics: Iterable[TopicsName], model: Path, negatives: Iterable[str] = ()) -> dict[str, str]:
    """Fingerprints by what they are of; topics that the collection lacks are left out.

    Args:
        model: the folder to start from.
        negatives: files that the user gave.
    """
    found = {f"passages of {collection.name}": collection.passages.fingerprint}
    known = collection.topics_names
    found |= {f"topics {name}": sha256_once(collection.topics_path(str(name))) for name in dict.fromkeys(topics) if name in known}
    found |= {f"negatives {name}": sha256_once(Path(name)) for name in dict.fromkeys(negatives) if Path(name).is_file()}
    files = sorted({path for pattern in READ for path in model.rglob(pattern) if path.name != CARD and path.is_file()})
    return found | {"the base model": fingerprint([[str(path.relative_to(model)), sha256_once(path)] for path in files])}


def refuse_other_inputs(output: Path, inputs: Mapping[str, str]) -> None:
    """Keep `inputs` in a run's folder that has nothing yet. Raises: InputError where the run in it was begun with others, saying which."""
    path = output / INPUTS_FILE
    if not begun(output) or not path.is_file():
        write_json(path, dict(inputs))
        return
    found = read_json(path)
    if differing := [name for name in {**found, **inputs} if found.get(name) != inputs.get(name)]:
        raise InputError(
            f"--output {output} was begun with other content of: {', '.join(differing)}; go on with what it was begun with, or give another folder"
        )
