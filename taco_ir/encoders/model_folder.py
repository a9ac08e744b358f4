"""What a model folder holds: everything that can be asked about it without loading the model.

All files that vectors can depend on are in its fingerprint, by rule. Weights are safetensors alone: pickled weights run whatever code
is in them, and a PEFT adapter is applied by transformers unasked; folders whose files name either are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

from taco_ir.core.files import InputError, fingerprint, read_json
from taco_ir.core.hashes import sha256_once
from taco_ir.core.typed import shown
from taco_ir.encoders.adapters.folder import RECORD_FILE, TENSORS_FILE, AdapterRecord, read_record
from taco_ir.encoders.config import (
    CONFIG_FILE,
    DEFAULT_LENGTH,
    MODULES_FILE,
    PADDED_POSITIONS,
    EncoderConfig,
    Pooling,
    Role,
    read_own,
    read_sentence_transformers,
)
from taco_ir.encoders.names import locate
from taco_ir.encoders.weights import INT8_FILE, PLAIN_FILE

WEIGHTS = ".safetensors"
INDEX = f"{WEIGHTS}.index.json"
HEAD_FILE = "head.safetensors"
PEFT_FILE = "adapter_config.json"
NAMES_WEIGHTS = "transformers_weights"  # a key of config.json that sends transformers to another file
DEFAULT_POSITIONS = 512
TOKENIZERS = ("tokenizer.json", "vocab.txt", "spiece.model")  # one of them is needed
# Files of a folder that no vector depends on: texts for people, code and other libraries' weights, which nothing here reads;
# what is read into EncoderConfig or the record of adapters, which are part of fingerprints themselves; and what is written about weights.
TEXTS_AND_CODE = (".md", ".py", ".png", ".jpg", ".pdf", ".toml")
OTHER_WEIGHTS = (".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf")
UNREAD = (*TEXTS_AND_CODE, *OTHER_WEIGHTS)
DESCRIBED = (CONFIG_FILE, MODULES_FILE, "config_sentence_transformers.json", "sentence_bert_config.json")
ABOUT = ("card.json", "pyserini-flags.txt", "state.json", "stream.json")
NO_TOKENIZER = ("config.json", "generation_config.json", *DESCRIBED, *ABOUT)


class Kind(Enum):
    """The kinds of model folders."""

    ADAPTERS = "adapters on a backbone, which is elsewhere or in a folder of it"
    TOWERS = "two models, one for queries and one for passages"
    OURS = "a model with our configuration"
    SENTENCE_TRANSFORMERS = "a sentence-transformers model"
    PLAIN = "a model that does not say how it pools"


# what is in a folder of each kind; a folder is of the first kind that fits
LAYOUTS: Mapping[Kind, tuple[str, ...]] = {
    Kind.ADAPTERS: (RECORD_FILE,),
    Kind.TOWERS: ("query", "passage"),
    Kind.OURS: (CONFIG_FILE,),
    Kind.SENTENCE_TRANSFORMERS: (MODULES_FILE,),
    Kind.PLAIN: (),
}


class Positions(NamedTuple):
    """What is read of config.json: the kind of the model and its positions; T5 has relative ones and names none."""

    model_type: str = ""
    max_position_embeddings: Annotated[int, 3] = DEFAULT_POSITIONS


class TokenizerLength(NamedTuple):
    """What is read of tokenizer_config.json; a number beyond all lengths stands for none."""

    model_max_length: Annotated[float, 1] | None = None


class ShardIndex(NamedTuple):
    """What is read of an index of shards: the file of each tensor."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model. Its files are read when something is asked."""

    path: Path

    @classmethod
    def find(cls, model: str | None) -> ModelFolder:
        """The folder of a model as --model names it (see `names.locate`). Raises: InputError where there is none."""
        return cls(locate(model))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def kind(self) -> Kind:
        return next(kind for kind, names in LAYOUTS.items() if all((self.path / name).exists() for name in names))

    @property
    def towers(self) -> Mapping[Role, ModelFolder]:
        """What reads passages and what reads queries: folders of their own, or this one twice."""
        if self.kind is Kind.TOWERS:
            return {Role.PASSAGE: ModelFolder(self.path / "passage"), Role.QUERY: ModelFolder(self.path / "query")}
        return {Role.PASSAGE: self, Role.QUERY: self}

    @property
    def record(self) -> AdapterRecord | None:
        """What the folder says of its adapters; None: it has none. Raises: InputError for a record that says something else."""
        return read_record(self.path) if self.kind is Kind.ADAPTERS else None

    @property
    def base_name(self) -> str:
        """Where the backbone of adapters is found from anywhere: a hub's name, or a folder, the one inside if there is one."""
        record = read_record(self.path)
        inside = self.path / record.base
        return str(inside.resolve()) if inside.is_dir() else record.base

    def backbone(self, given: str | None = None) -> ModelFolder:
        """What adapters were trained on; of other folders they themselves.

        Args:
            given: where it is, if not where it was.

        Raises:
            InputError: where it is not found, or is another one.
        """
        record = self.record
        if record is None:
            return self
        name = given or self.base_name
        try:
            found = ModelFolder.find(name)
        except InputError as error:
            raise InputError(
                f"{self}: its base model {name!r} is not found; say where it is by --base FOLDER, or as base in {self.path / RECORD_FILE}"
            ) from error
        digest = "adapters of its own" if found.kind is Kind.ADAPTERS else found.fingerprint
        if digest != record.digest:
            raise InputError(
                f"{self}: its adapters belong to the base {record.base!r} with the hash {record.digest}; {found} has {digest}"
            )
        return found

    @property
    def describes_itself(self) -> bool:
        """Whether the folder says how it pools, so that no flags are needed."""
        return any((self.path / name).is_file() for name in (CONFIG_FILE, MODULES_FILE))

    def config(
        self, pooling: Pooling | None = None, normalize: bool = False, longest: int | None = None
    ) -> EncoderConfig:
        """How texts become vectors: what the folder says, or the flags for a plain one.

        Args:
            pooling, normalize: what the user said; needed for a plain folder, refused for one that says it itself.
            longest: most tokens that the backbone takes, where that is known already.

        Raises:
            InputError: for a plain folder without `pooling`, a folder that contradicts the flags, or one whose modules
                this encoder does not have.
        """
        most = self.longest if longest is None else longest
        own = self.path / CONFIG_FILE
        if not self.describes_itself:
            if pooling is None:
                flags = f"--pooling {'|'.join(get_args(Pooling))} [--normalize]"
                raise InputError(f"--model {self}: a plain Hugging Face model does not say how it pools; give {flags}")
            return EncoderConfig(
                pooling, normalize, query_length=min(DEFAULT_LENGTH, most), passage_length=min(DEFAULT_LENGTH, most)
            )
        if pooling is not None or normalize:
            where = CONFIG_FILE if own.is_file() else MODULES_FILE
            raise InputError(
                f"--model {self}: the folder says itself how it pools ({where}); leave out --pooling and --normalize"
            )
        config = read_own(own) if own.is_file() else read_sentence_transformers(self.path, most)
        lengths = (config.query_length, config.passage_length, *config.query_lengths.values())
        if not 1 <= min(lengths) <= max(lengths) <= most:
            raise InputError(
                f"{self}: lengths of {min(lengths)} to {max(lengths)} tokens (query_length, passage_length, query_lengths); the backbone takes 1 to {most}"
            )
        return config

    @property
    def trained_config(self) -> EncoderConfig:
        """The configuration that a trained encoder brings. Raises: InputError for a folder that does not say how it pools."""
        own = self.towers[Role.PASSAGE]
        if not own.describes_itself:
            raise InputError(
                f"{self}: a trained encoder has taco_ir.json or modules.json, which say how it pools; this has neither"
            )
        return own.config()

    @property
    def longest(self) -> int:
        """Most tokens that the backbone's positions and the tokenizer take. Raises: InputError for a folder that holds no model."""
        whole = self.backbone().towers[Role.PASSAGE]
        whole.require_weights()
        config = read_json(whole.path / "config.json", Positions, others=True)
        positions = config.max_position_embeddings - 2 * (config.model_type in PADDED_POSITIONS)
        path = whole.path / "tokenizer_config.json"
        stated = read_json(path, TokenizerLength, others=True).model_max_length if path.is_file() else None
        return min(positions, int(stated)) if stated else positions

    @property
    def weights_file(self) -> Path | None:
        """Its weights, of adapters theirs; None where they are not in one file."""
        names = (TENSORS_FILE,) if self.kind is Kind.ADAPTERS else (PLAIN_FILE, INT8_FILE)
        return next((path for name in names if (path := self.path / name).is_file()), None)

    @property
    def fingerprint(self) -> str:
        """Hash of all files that vectors can depend on. Raises: InputError for a folder without weights, configuration or tokenizer."""
        self.require_weights()
        if not any((self.path / name).is_file() for name in TOKENIZERS):
            raise InputError(f"--model {self}: no {', '.join(TOKENIZERS[:-1])} or {TOKENIZERS[-1]}")
        left_out = (*DESCRIBED, *ABOUT)
        read = (path for path in self._files() if not path.name.endswith(UNREAD) and path.name not in left_out)
        return fingerprint({path.name: sha256_once(path) for path in read})

    def tokenizer_files(self) -> list[Path]:
        """Those that only a tokenizer can read, by name."""
        others = (*UNREAD, WEIGHTS, INDEX)
        return [path for path in self._files() if not path.name.endswith(others) and path.name not in NO_TOKENIZER]

    def require_weights(self) -> None:
        """Raise InputError for a folder without weights or configuration, of adapters alone, or that names weights of another kind."""
        if (record := self.record) is not None:
            merged = ", or what export --what huggingface makes of both" * record.mergeable
            raise InputError(
                f"--model {self}: it is adapters of {record.method} on a frozen backbone, and a whole model is needed; give the backbone,"
                f" {self.base_name}{merged}"
            )
        self._refuse_other_weights()
        weights = any(self.path.glob(f"*{WEIGHTS}"))
        if not weights or not (self.path / "config.json").is_file():
            missing = "model.safetensors (pickled weights are not read)" if not weights else "config.json"
            raise InputError(
                f"--model {self}: a model folder needs config.json and safetensors weights; missing: {missing}"
            )

    def _refuse_other_weights(self) -> None:
        """Raise InputError for a folder whose files send a loader to weights that are no safetensors beside them."""
        if (self.path / PEFT_FILE).is_file():
            raise InputError(
                f"--model {self}: {PEFT_FILE} makes it an adapter of PEFT; merge it into its base (merge_and_unload), save that, and give the result"
            )
        config = self.path / "config.json"
        named = read_json(config, dict[str, Any]).get(NAMES_WEIGHTS) if config.is_file() else None
        if named is not None:
            raise InputError(
                f"{config}: {NAMES_WEIGHTS} is {shown(named)}; weights are model{WEIGHTS} or the shards of model{INDEX}, no others"
            )
        for index in sorted(self.path.glob(f"*{INDEX}")):
            _check_index(index)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if path.is_file() and not path.name.startswith("."))


def _check_index(path: Path) -> None:
    """Raise InputError where an index of shards names anything but safetensors files beside it."""
    shards = read_json(path, ShardIndex, others=True).weight_map
    if not shards:
        raise InputError(f"{path}: no weight_map, which says what shard each tensor is in")
    for name in sorted(set(shards.values())):
        if not name.endswith(WEIGHTS):
            raise InputError(
                f"{path}: weight_map names {name!r}; pickled weights are not read, only {WEIGHTS} files are"
            )
        if name not in {each.name for each in path.parent.glob(f"*{WEIGHTS}")}:
            raise InputError(f"{path}: weight_map names {name!r}, which is no file beside it")
