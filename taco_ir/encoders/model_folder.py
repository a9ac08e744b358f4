"""Answers questions about a model folder without loading the model: kind, towers, files, configuration, fingerprint.

A fingerprint covers all files that vectors can depend on. Weights must be safetensors, because pickled weights can run
code. A PEFT adapter is merged with its base model, so its fingerprint covers the files of the base model, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

from taco_ir.core.files import InputError, read_json
from taco_ir.core.hashes import fingerprint, sha256_once
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.adapters.folder import RECORD_FILE, TENSORS_FILE, AdapterRecord, read_record
from taco_ir.encoders.config import CONFIG_FILE, DEFAULT_LENGTH, PADDED_POSITIONS, EncoderConfig, Pooling, Role
from taco_ir.encoders.foreign_modules import (
    LENGTHS_FILE,
    MODULES_FILE,
    PROMPTS_FILE,
    dense_files,
    has_routes,
    read_modules,
    transformer_folder,
)
from taco_ir.encoders.head import HEAD_FILE, dense_tensors
from taco_ir.encoders.names import conversion_of, locate, name_of
from taco_ir.encoders.weights import INT8_FILE, PLAIN_FILE, read_safetensors

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = ".safetensors"
INDEX = f"{WEIGHTS}.index.json"
PEFT_FILE, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAMES_WEIGHTS = "transformers_weights"  # a key of config.json that makes transformers read another file
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
COLBERT_FILE = "artifact.metadata"
COLBERT = (
    "--model {}: a ColBERT model, which has a vector for each token; an encoder with one vector for a text is needed"
)
DEFAULT_POSITIONS = 512
DPR_TEMPLATE = "{title} [SEP] {text}"
# classes of transformers that load only the encoder of an encoder-decoder model
T5_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "longt5": "LongT5EncoderModel",
}
DPR_ENCODERS = ("DPRQuestionEncoder", "DPRContextEncoder")
# one of these files is needed; transformers makes a fast tokenizer of all but the first
TOKENIZERS = ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.json")
# Files that are not part of fingerprints: texts, code and weights for other libraries, which we do not read; files that
# are read into EncoderConfig, which is part of fingerprints itself; and descriptions of weights.
TEXTS_AND_CODE = (".md", ".py", ".png", ".jpg", ".pdf", ".toml")
OTHER_WEIGHTS = (".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".gguf")
UNREAD = (*TEXTS_AND_CODE, *OTHER_WEIGHTS)
DESCRIBED = (CONFIG_FILE, MODULES_FILE, PROMPTS_FILE, LENGTHS_FILE)
ABOUT = ("card.json", "hybrid.json", "pyserini-flags.txt", "state.json", "stream.json")
NO_TOKENIZER = ("config.json", "generation_config.json", PEFT_FILE, *DESCRIBED, *ABOUT)


class Kind(Enum):
    """The kinds of model folders, each with the files that it must have. A folder is of the first kind that fits."""

    ADAPTERS = (RECORD_FILE,)  # for a backbone, which is elsewhere or in a folder below
    TOWERS = ("query", "passage")  # two models
    OURS = (CONFIG_FILE,)
    SENTENCE_TRANSFORMERS = (MODULES_FILE,)
    PLAIN = ()  # a model that does not say how it pools


class ModelConfig(NamedTuple):
    """Keys that are read from config.json: type, classes, number of positions (absent in T5), DPR's projection."""

    model_type: str = ""
    architectures: tuple[str, ...] | None = None
    max_position_embeddings: Annotated[int, 3] | None = None
    n_positions: Annotated[int, 3] | None = None
    projection_dim: int = 0


class TokenizerLength(NamedTuple):
    """Keys that are read from tokenizer_config.json: maximum number of tokens; a huge number means no limit."""

    model_max_length: Annotated[float, 1] | None = None


class PeftConfig(NamedTuple):
    """Keys that are read from adapter_config.json: type of the PEFT adapter, and its base model."""

    peft_type: str = ""
    base_model_name_or_path: str | None = None


class ShardIndex(NamedTuple):
    """Keys that are read from an index of weight shards: the file of each tensor."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model, of any supported layout. Its files are read only when they are needed."""

    path: Path
    base: str | None = None  # of a PEFT adapter, if it is not the base in the adapter's file
    route: str = ""  # `query` or `passage`, for the modules of one side in a sentence-transformers folder

    @classmethod
    def find(cls, model: str | None) -> ModelFolder:
        """Find a model's folder by the value of --model (see `names.locate`). Raises: InputError if there is none."""
        return cls(locate(model))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def kind(self) -> Kind:
        return next(kind for kind in Kind if all((self.path / name).exists() for name in kind.value))

    @property
    def towers(self) -> Mapping[Role, ModelFolder]:
        """The folders of passage encoder and query encoder, by role; both are this folder if it has one encoder."""
        if self.kind is Kind.SENTENCE_TRANSFORMERS and not self.route and has_routes(self.path):
            return {Role.PASSAGE: replace(self, route="passage"), Role.QUERY: replace(self, route="query")}
        if self.kind is Kind.TOWERS:
            return {Role.PASSAGE: ModelFolder(self.path / "passage"), Role.QUERY: ModelFolder(self.path / "query")}
        return {Role.PASSAGE: self, Role.QUERY: self}

    @property
    def is_untied(self) -> bool:
        """Whether queries and passages have separate encoders."""
        return len(set(self.towers.values())) > 1

    @property
    def own_files(self) -> Path:
        """The folder with the backbone's files, which may be inside this folder; for PEFT, with the adapter's files."""
        theirs = self.kind is Kind.SENTENCE_TRANSFORMERS
        return transformer_folder(self.path, self.route) if theirs else self.path

    @property
    def files(self) -> Path:
        """The folder with the backbone's configuration and weights; for a PEFT adapter, its base model's folder."""
        return self.peft_base.files if self.is_peft else self.own_files

    @property
    def tokenizer_folder(self) -> Path:
        """The folder with the tokenizer; for a PEFT adapter without a tokenizer, the folder of its base model."""
        has_own = any((self.own_files / name).is_file() for name in TOKENIZERS)
        return self.own_files if has_own or not self.is_peft else self.files

    @property
    def is_peft(self) -> bool:
        return not self.is_untied and (self.own_files / PEFT_FILE).is_file()

    @property
    def peft_base(self) -> ModelFolder:
        """The base model with which a PEFT adapter is merged. Raises: InputError if they cannot be merged."""
        path = self.own_files / PEFT_FILE
        said = read_json(path, PeftConfig, others=True)
        what = f"--model {self}: {PEFT_FILE} makes it a PEFT adapter"
        if said.peft_type != "LORA" or not (path.parent / PEFT_WEIGHTS).is_file():
            raise InputError(
                f"{what} ({said.peft_type}); only LORA with {PEFT_WEIGHTS} can be read; give such an adapter, or "
                "save the merged model (merge_and_unload)"
            )
        name = self.base or said.base_model_name_or_path
        if not name:
            raise InputError(f"{what} that names no base (base_model_name_or_path); give --base FOLDER")
        base = _find_base(name, f"{what}, and", "base_model_name_or_path")
        if base.is_peft or base.is_untied:
            raise InputError(
                f"{what}, and its base {base} is an adapter too, or has two towers; give a whole model by --base FOLDER"
            )
        return base

    @property
    def record(self) -> AdapterRecord | None:
        """The record of a folder of adapters; None for other folders. Raises: InputError for an invalid record."""
        return read_record(self.path) if self.kind is Kind.ADAPTERS else None

    @property
    def base_name(self) -> str:
        """The backbone of a folder of adapters: its path if the folder contains it, otherwise the recorded name."""
        record = read_record(self.path)
        inside = self.path / record.base
        return str(inside.resolve()) if inside.is_dir() else record.base

    @property
    def advice(self) -> str:
        """Advice for error messages about a folder of adapters: which complete model to give instead."""
        record = read_record(self.path)
        merged = ", or merge the two by export --what huggingface" * record.mergeable
        return f"give its base model, {name_of(self.base_name)}{merged}"

    def backbone(self, given: str | None = None) -> ModelFolder:
        """Find the folder of the adapters' backbone; without adapters, return this folder.

        Args:
            given: folder or name of the backbone, if it is not as in the record.

        Raises:
            InputError: for a backbone that is missing, or that is not the backbone that the adapters were trained on.
        """
        record = self.record
        if record is None:
            return self
        name = given or self.base_name
        found = _find_base(name, f"{self}:", f"base in {self.path / RECORD_FILE}")
        digest = "" if found.kind is Kind.ADAPTERS else found.fingerprint
        if digest != record.digest:
            raise InputError(
                f"{self}: its adapters need the base {record.base!r} with hash {record.digest}, but {found} has "
                f"{f'hash {digest}' if digest else 'adapters of its own'}; give another --base"
            )
        return found

    @property
    def model_config(self) -> ModelConfig:
        """The keys that are read from config.json; default values if the file is missing."""
        path = self.files / "config.json"
        return read_json(path, ModelConfig, others=True) if path.is_file() else ModelConfig()

    @property
    def describes_itself(self) -> bool:
        """Whether the folder records its pooling, so that no flags are needed."""
        return any((self.path / name).is_file() for name in (CONFIG_FILE, MODULES_FILE)) or self.is_dpr

    @property
    def is_dpr(self) -> bool:
        """Whether this is a DPR model of transformers: a BERT that pools the first token, with prefixed tensors."""
        return self.model_config.model_type == "dpr"

    @property
    def encoder_class(self) -> str:
        """Name of the transformers class that loads the encoder. Raises: InputError for DPR's reader."""
        config = self.model_config
        if not self.is_dpr:
            return T5_ENCODERS.get(config.model_type, "AutoModel")
        name = next(iter(config.architectures or DPR_ENCODERS))
        if name not in DPR_ENCODERS:
            raise InputError(
                f"--model {self}: it is a {name}, which does not make vectors; allowed: {', '.join(DPR_ENCODERS)}"
            )
        return name

    @property
    def head_files(self) -> list[Path]:
        """The files of the linear layers after pooling; empty for DPR, which has its projection among the weights."""
        if self.kind is Kind.SENTENCE_TRANSFORMERS:
            return dense_files(self.path, self.route)
        path = self.path / HEAD_FILE
        return [path] if path.is_file() else []

    @property
    def has_head(self) -> bool:
        return bool(self.head_files) or (self.is_dpr and self.model_config.projection_dim > 0)

    def head_tensors(self) -> dict[str, Tensor]:
        """Read the tensors of the linear layers after pooling. Raises: InputError for a broken file."""
        if self.kind is Kind.SENTENCE_TRANSFORMERS:
            return dense_tensors(self.head_files)
        return read_safetensors(self.path / HEAD_FILE) if self.head_files else {}

    def config(
        self, pooling: Pooling | None = None, normalize: bool = False, longest: int | None = None
    ) -> EncoderConfig:
        """Return the encoder's configuration: from the folder or, for a plain model, from the user's flags.

        Args:
            pooling, normalize: the user's flags; a plain folder needs `pooling`, and other folders refuse both.
            longest: the maximum number of tokens for the backbone; None: read it from the folder.

        Raises:
            InputError: for a plain folder without `pooling`, a folder that contradicts the flags, or unsupported
                modules.
        """
        most = self.longest if longest is None else longest
        own = self.path / CONFIG_FILE
        length = min(DEFAULT_LENGTH, most)
        if self.kind is Kind.PLAIN and self.is_dpr:
            if pooling not in (None, "first", "pooler"):
                raise InputError(f"--model {self}: DPR models always use the pooler; leave out --pooling {pooling}")
            width = self.model_config.projection_dim
            layers = "Identity" if width else ""
            return EncoderConfig(
                "first", normalize, {}, length, {}, length, DPR_TEMPLATE, head=width, head_layers=layers
            )
        if not self.describes_itself:
            if pooling is None:
                flags = f"--pooling {'|'.join(get_args(Pooling))} [--normalize]"
                raise InputError(
                    f"--model {self}: a plain Hugging Face model does not record how to pool token vectors; give "
                    f"{flags}"
                )
            return EncoderConfig(pooling, normalize, query_length=length, passage_length=length)
        if pooling is not None or normalize:
            where = CONFIG_FILE if own.is_file() else MODULES_FILE
            raise InputError(
                f"--model {self}: {where} already records how it pools; leave out --pooling and --normalize"
            )
        config = read_json(own, EncoderConfig) if own.is_file() else read_modules(self.path, most, self.route)
        lengths = (config.query_length, config.passage_length, *config.query_lengths.values())
        if not 1 <= min(lengths) <= max(lengths) <= most:
            raise InputError(
                f"{self}: query_length, passage_length and query_lengths are {abbreviate(min(lengths))} to "
                f"{abbreviate(max(lengths))} tokens; the backbone allows 1 to {most}"
            )
        return config

    @property
    def trained_config(self) -> EncoderConfig:
        """The configuration of a trained encoder. Raises: InputError if the folder does not record its pooling."""
        own = self.towers[Role.PASSAGE]
        if not own.describes_itself:
            raise InputError(
                f"{self}: without taco_ir.json or modules.json, which record the pooling, this "
                "is not a trained encoder; give a folder that train wrote"
            )
        return own.config()

    @property
    def longest(self) -> int:
        """The maximum number of tokens for backbone and tokenizer. Raises: InputError if there is no whole model."""
        whole = self.backbone().towers[Role.PASSAGE]
        whole.require_weights()
        config = whole.model_config
        positions = config.max_position_embeddings or config.n_positions or DEFAULT_POSITIONS
        positions -= 2 * (config.model_type in PADDED_POSITIONS)
        path = whole.tokenizer_folder / "tokenizer_config.json"
        stated = read_json(path, TokenizerLength, others=True).model_max_length if path.is_file() else None
        return min(positions, int(stated)) if stated else positions

    @property
    def weights_file(self) -> Path | None:
        """The file with all weights or, in a folder of adapters, with their tensors; None if there is no such file."""
        names = (TENSORS_FILE,) if self.kind is Kind.ADAPTERS else (PLAIN_FILE, INT8_FILE)
        return next((path for name in names if (path := self.files / name).is_file()), None)

    @property
    def fingerprint(self) -> str:
        """Hash of all files that vectors can depend on. Raises: InputError if a necessary file is missing."""
        self.require_weights()
        if not any((self.tokenizer_folder / name).is_file() for name in TOKENIZERS):
            raise InputError(f"--model {self}: no tokenizer ({', '.join(TOKENIZERS[:-1])} or {TOKENIZERS[-1]})")
        left_out = (*DESCRIBED, *ABOUT)
        read = (
            path for path in _files_in(self.own_files) if not path.name.endswith(UNREAD) and path.name not in left_out
        )
        hashes = {path.name: sha256_once(path) for path in read}
        below = {"base": self.peft_base.fingerprint} if self.is_peft else {}
        behind = below | {
            f"{path.parent.name}/{path.name}": sha256_once(path)
            for path in self.head_files
            if path.parent != self.own_files
        }
        return fingerprint(hashes | behind)

    def tokenizer_files(self) -> list[Path]:
        """List the files of the tokenizer by name: all files except weights, configurations, texts and code."""
        others = (*UNREAD, WEIGHTS, INDEX)
        files = _files_in(self.tokenizer_folder)
        return [path for path in files if not path.name.endswith(others) and path.name not in NO_TOKENIZER]

    def require_weights(self) -> None:
        """Raise InputError if the folder is not a whole model, which has weights and config.json, not only adapters."""
        if (record := self.record) is not None:
            raise InputError(
                f"--model {self}: it holds only adapters (method {record.method}), but a whole model is needed; "
                f"{self.advice}"
            )
        config = self.files / "config.json"
        named = read_json(config, dict[str, Any]).get(NAMES_WEIGHTS) if config.is_file() else None
        if named is not None:
            raise InputError(
                f"{config}: {NAMES_WEIGHTS} is {abbreviate(named)}; only model{WEIGHTS} or shards of model{INDEX} are"
                " read"
            )
        self._refuse_other_kinds()
        self._check_shards()
        weights = any(self.files.glob(f"*{WEIGHTS}"))
        if not weights or not config.is_file():
            raise InputError(
                f"--model {self}: a model folder needs config.json and safetensors weights; missing: "
                f"{self._what_lacks(weights)}"
            )

    def _what_lacks(self, has_weights: bool) -> str:
        """Return the missing file, and what to do; for an error message."""
        whole = (path for path in sorted(self.path.glob("*/config.json")) if any(path.parent.glob(f"*{WEIGHTS}")))
        if (below := next(whole, None)) is not None:
            return f"both, but {below.parent} has them; give that folder"
        if has_weights:
            return "config.json"
        pickled = next((path for path in _files_in(self.files) if path.name.endswith(PICKLES)), None)
        how = (
            f"; {pickled.name} is pickled, and pickles run code; {conversion_of(str(self.files), self.files)}"
            if pickled
            else ""
        )
        return f"model.safetensors (pickled weights are not read){how}"

    def _refuse_other_kinds(self) -> None:
        """Raise InputError for a model that does not make a single vector of a text."""
        classes = self.model_config.architectures or () if self.kind is Kind.PLAIN else ()
        if any("colbert" in name.lower() for name in classes) or (self.path / COLBERT_FILE).is_file():
            raise InputError(COLBERT.format(self))
        if scorer := next((name for name in classes if name.endswith("ForSequenceClassification")), None):
            raise InputError(
                f"--model {self}: it is a cross-encoder or classifier ({scorer}), which scores texts but does not "
                "make vectors; give an encoder"
            )

    def _check_shards(self) -> None:
        """Raise InputError if an index of weight shards names a file that is missing or is not safetensors."""
        beside = {path.name for path in self.files.glob(f"*{WEIGHTS}")}
        for index in sorted(self.files.glob(f"*{INDEX}")):
            shards = read_json(index, ShardIndex, others=True).weight_map
            if not shards:
                raise InputError(f"{index}: it has no weight_map, which must name the shard of each tensor")
            for name in sorted(set(shards.values())):
                if not name.endswith(WEIGHTS):
                    raise InputError(
                        f"{index}: weight_map names {name!r}; pickled weights are not read, only {WEIGHTS}"
                    )
                if name not in beside:
                    raise InputError(f"{index}: weight_map names {name!r}, but there is no such file beside it")


def _find_base(name: str, what: str, key: str) -> ModelFolder:
    """Find the base model of adapters. Raises: InputError, beginning with `what`, and naming the `key` to change."""
    try:
        return ModelFolder.find(name)
    except InputError as error:
        raise InputError(f"{what} its base {name!r} is missing; give --base FOLDER, or change {key}") from error


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
