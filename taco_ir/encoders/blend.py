"""Weights between a model's and those of the base that it was trained from, which keep what the base knew beyond the training data.

WiSE-FT: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022. `blended.json` beside the weights says what they were made of.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from taco_ir.core.files import InputError, fingerprint, read_json, sha256_file, write_json
from taco_ir.encoders.adapters.folder import is_tuned
from taco_ir.encoders.config import EncoderConfig, describes_itself, read_config
from taco_ir.encoders.exports import copy_backbone
from taco_ir.encoders.role_marks import NONE
from taco_ir.encoders.text_encoder import Backbone, is_untied, longest, model_folder, read_backbone
from taco_ir.encoders.weights import PLAIN_FILE

if TYPE_CHECKING:
    from torch import Tensor

BLENDED_FILE = "blended.json"
SAME = ("model_type", "num_attention_heads")  # beside shapes, what weights must have in common


@dataclass(frozen=True)
class Blend:
    """What blended.json says.

    Attributes:
        share: of the model's weights, 0 to 1; the rest are the other's.
        model: hash of the model's weights (`model_hash`).
        other: name of the other's folder, or its name at a hub.
        other_hash: of its weights.
    """

    share: float
    model: str
    other: str
    other_hash: str


def model_hash(folder: Path) -> str:
    """Of all weights in a model folder, a tuned one's modules included."""
    return fingerprint([sha256_file(path) for path in sorted(folder.glob("*.safetensors"))])


def read_blend(folder: Path) -> Blend | None:
    """What the weights in a folder were made of; None where they are no blend. Raises: InputError for a file that says something else."""
    path = folder / BLENDED_FILE
    if not path.is_file():
        return None
    values = read_json(path)
    types = {"share": float, "model": str, "other": str, "other_hash": str}
    if not isinstance(values, dict) or {key: type(value) for key, value in values.items()} != types:
        raise InputError(f"{path}: a JSON object is needed, with the keys {', '.join(field.name for field in fields(Blend))}")
    return Blend(**values)


def write_blended(source: Path, config: EncoderConfig, other: str, share: float, target: Path, made_of: str) -> None:
    """Write a plain float32 folder whose weights are `share` of those in `source` and 1 - `share` of the other's.

    Parameters that one of both lacks (a pooler, which no vector depends on) are the other one's.

    Args:
        config: the encoder's, which goes along.
        other: a folder, or a name as --model takes it.
        made_of: `model_hash` of the model, for the record.

    Raises:
        InputError: for models that have more than a backbone, or whose backbones, vocabularies or poolings are not alike.
    """
    from safetensors.torch import save_file

    base = _plain_model(other, config)
    if not (source / "config.json").is_file() or config.head or config.roles != NONE:
        raise InputError(f"--what blended: {source} has two towers, a linear head or marks of roles; one backbone alone can be blended")
    ours, theirs = read_backbone(source, config), read_backbone(base, config)
    _refuse_unlike(ours, theirs, f"--with {other}")
    own, more = _parameters(ours), _parameters(theirs)
    tensors = more | own | {name: more[name].lerp(own[name], share) for name in own.keys() & more.keys()}
    copy_backbone(source, target, longest(source))
    for path in target.glob("*.safetensors*"):
        path.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / PLAIN_FILE, {"format": "pt"})
    write_json(target / "config.json", read_json(target / "config.json") | {"dtype": "float32"})
    config.save(target)
    name = (Path(other).resolve() if Path(other).is_dir() else Path(other)).name
    write_json(target / BLENDED_FILE, asdict(Blend(float(share), made_of, name, model_hash(base))))


def _plain_model(other: str, config: EncoderConfig) -> Path:
    """The folder of the other model. Raises: InputError for one that is more than a backbone, or pools in another way."""
    folder = model_folder(other)
    if is_tuned(folder) or is_untied(folder):
        raise InputError(f"--with {other}: it is {'a tuned model' if is_tuned(folder) else 'two towers'}; one whole backbone is needed")
    tokens = longest(folder)
    if describes_itself(folder):
        found = read_config(folder, None, False, tokens)
        if found.pooling != config.pooling:
            raise InputError(f"--with {other}: it pools by {found.pooling!r}, the model by {config.pooling!r}; they must be alike")
        if found.head or found.roles != NONE:
            raise InputError(f"--with {other}: it has a linear head or marks of roles; one backbone alone can be blended")
    return folder


def _refuse_unlike(ours: Backbone, theirs: Backbone, flag: str) -> None:
    """Raise InputError for backbones whose weights do not mean the same."""
    for key in SAME:
        found, wanted = (getattr(each.module.config, key, None) for each in (theirs, ours))
        if found != wanted:
            raise InputError(f"{flag}: its {key} is {found!r}, the model's {wanted!r}; they must be alike")
    if theirs.tokenizer.get_vocab() != ours.tokenizer.get_vocab():
        raise InputError(f"{flag}: it has another vocabulary than the model; both must read the same tokens")
    shapes, wanted_shapes = ({name: list(param.shape) for name, param in each.module.named_parameters()} for each in (theirs, ours))
    for name in sorted(wanted_shapes.keys() | shapes.keys()):
        if shapes.get(name) != wanted_shapes.get(name):
            raise InputError(f"{flag}: its {name} is {shapes.get(name)}, the model's {wanted_shapes.get(name)}; they must be alike")


def _parameters(backbone: Backbone) -> dict[str, Tensor]:
    """Those that its files have, by name; tied ones once."""
    return {name: param.detach() for name, param in backbone.module.named_parameters() if name not in backbone.new}
