"""Texts to vectors: one encoder for BERT-type and T5 backbones, from our checkpoints or anyone's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from taco_ir.core.files import InputError, fingerprint, read_json
from taco_ir.core.tasks import TASK_NAMES, resolve_task
from taco_ir.core.types import Passage, Vectors, refuse_text
from taco_ir.encoders.adapters.folder import base_folder, base_name, is_tuned, load_tuning, read_record
from taco_ir.encoders.config import EncoderConfig, Pooling, describes_itself, read_config
from taco_ir.encoders.contents import contents_hashes, refuse_other_weights
from taco_ir.encoders.names import BUILTIN, shipped_folder
from taco_ir.encoders.pooling import Ids, by_length, embed, pad, tokenize
from taco_ir.encoders.role_marks import MODULES, NONE, PASSAGE, QUERY, RoleMarks, load_learned
from taco_ir.encoders.weights import KEY, is_int8, read_weights

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

log = logging.getLogger("taco_ir")
Precision = Literal["float32", "int8"]
HEAD_FILE = "head.safetensors"
TOKEN_BUDGET = 2048  # tokens of a batch: about what two cores' caches hold
TOKEN_BUDGET_ELSEWHERE = 1 << 17  # an accelerator wants few large batches
DEFAULT_POSITIONS = 512
PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # their first two positions are for padding
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


class TextEncoder:
    """A backbone with the configuration that makes it an encoder.

    Attributes:
        config: pooling, prompts, lengths, template.
        folder: where its files are.
        dim: D, the width of its vectors.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        tokenizer: Tokenizer,
        config: EncoderConfig,
        folder: Path,
        weights: str,
        precision: Precision = "float32",
        device: str = "cpu",
        batch_size: int = 1024,
        head: torch.nn.Module | None = None,
        roles: torch.nn.Module | None = None,
    ) -> None:
        import torch

        self.config = config
        self.folder = folder
        self.passage_template = config.passage_template
        self.batch_size = batch_size
        self.truncated = 0
        self._tokenizer = tokenizer
        self._device = torch.device(device)
        self._backbone = _int8(backbone.eval()) if precision == "int8" else backbone.eval().to(self._device)
        self._pad: int = backbone.config.pad_token_id or 0  # type: ignore[union-attr,assignment]
        self._head = head.to(self._device) if head is not None else None
        self._marks = RoleMarks(config.roles, self._backbone, tokenizer, roles.eval().to(self._device) if roles is not None else None)
        self.dim: int = config.head or backbone.config.hidden_size  # type: ignore[union-attr,assignment]
        self._weights, self._precision = weights, precision

    @property
    def fingerprint(self) -> str:
        """Of weights, backbone, tokenizer, configuration as it is now, and precision."""
        return fingerprint([self._weights, self.config.described, self._precision])

    @property
    def passage_fingerprint(self) -> str:
        """Of what passage vectors depend on; an index remembers it."""
        said = self.config
        passage_side = [self._weights, said.pooling, said.normalize, said.passage_template, said.passage_length, self._precision]
        return fingerprint(passage_side + [said.roles] * (said.roles != NONE))

    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        """Encode queries of one task with its prompt: float32 [B, D]. Those cut at the task's length add to `truncated`.

        Args:
            task: a name or an alias; None for queries of no task, which take what the model has for all others (`*`).

        Raises:
            InputError: for a name that nobody knows, a task that the model lacks a prompt or a module for, or one text instead of several.
        """
        refuse_text(texts, "queries")
        return self.encode_mixed_queries(texts, [task] * len(texts))

    def encode_mixed_queries(self, texts: Sequence[str], tasks: Sequence[str | None], known: Iterable[str] = ()) -> Vectors:
        """Encode queries of several tasks, each with what its task has of its own: float32 [B, D], in their order.

        Args:
            known: tasks of the collection that the queries are from; they may have names that neither the model nor KILT knows.

        Raises:
            InputError: as `encode_queries` does.
        """
        refuse_text(texts, "queries")
        refuse_text(tasks, "tasks, one for each query,")
        vectors_BD = np.empty((len(texts), self.dim), dtype=np.float32)
        for given in dict.fromkeys(tasks):
            rows = [row for row, own in enumerate(tasks) if own == given]
            vectors_BD[rows] = self._encode_queries([texts[row] for row in rows], self.resolve(given, known))
        return vectors_BD

    def _encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        vectors_BD, cut = self._encode(self.config.query_texts(texts, task), self.config.max_query_tokens(task), QUERY)
        self.truncated += cut
        return vectors_BD

    @property
    def tasks(self) -> set[str]:
        """Tasks that the model has something of its own for; none where all queries are one to it."""
        return self.config.tasks

    def resolve(self, task: str | None, known: Iterable[str] = ()) -> str | None:
        """The canonical name of a task that the model, KILT or the collection (`known`) has; of no task (None or ""), as it is.

        Raises:
            InputError: for another name, unless all queries are one to the model.
        """
        if not task or not self.tasks:
            return task
        try:
            return resolve_task(task, {*self.tasks, *TASK_NAMES, *known})
        except InputError as error:
            raise InputError(f"{error}; for queries of another task name none") from error

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """Encode passages by the template: float32 [N, D]. Raises: InputError for one text instead of passages."""
        refuse_text(passages, "passages")
        return self._encode([self.config.passage_text(passage) for passage in passages], self.config.passage_length, PASSAGE)[0]

    def borrow(self, lenders: Mapping[str, str]) -> None:
        """Let each task (`*`: all others) have what its lender has of its own, prompt and length. Raises: InputError."""
        self.config = self.config.borrowing(lenders)

    def _encode(self, texts: Sequence[str], max_tokens: int, role: int = PASSAGE) -> tuple[Vectors, int]:
        """Vectors [N, D] and the number of texts that were cut."""
        ids, cut = tokenize(self._tokenizer, texts, max_tokens, self._marks.marker(role))
        vectors_ND = np.empty((len(texts), self.dim), dtype=np.float32)
        tokens = TOKEN_BUDGET if self._device.type == "cpu" else TOKEN_BUDGET_ELSEWHERE
        batches = list(by_length([len(ids_L) for ids_L in ids], self.batch_size, tokens))
        with _workers(self._device.type, len(batches)) as workers:
            found = workers.map(lambda batch: self._forward([ids[i] for i in batch], role), batches)
            for batch, vectors_BD in zip(batches, found, strict=True):
                vectors_ND[batch] = vectors_BD
        return vectors_ND, cut

    def _forward(self, ids: Sequence[Ids], role: int) -> Vectors:
        import torch

        ids_BL, mask_BL = (each.to(self._device) for each in pad(ids, self._pad))
        with torch.inference_mode():
            marks = self._marks.inputs(ids_BL, torch.full((len(ids), 1), role))
            vectors_BD = embed(self._backbone, self.config, ids_BL, mask_BL, self._head, **marks)
        return vectors_BD.float().cpu().numpy()


@contextmanager
def _workers(device: str, batches: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each take a whole batch: on CPUs that beats all cores on one batch, which must wait for each other at every layer."""
    import torch

    threads = torch.get_num_threads()
    if device != "cpu" or batches < threads:
        with ThreadPoolExecutor(1) as workers:
            yield workers
        return
    workers = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class UntiedEncoder(TextEncoder):
    """Two towers of the same width. One configuration says what they read: of queries what theirs says, of passages what the other says."""

    def __init__(self, passages: TextEncoder, queries: TextEncoder) -> None:
        said = passages.config
        self.config = replace(queries.config, passage_length=said.passage_length, passage_template=said.passage_template)
        self.folder = passages.folder.parent
        self.passage_template = passages.passage_template
        self.batch_size = passages.batch_size
        self.truncated = 0
        self.dim = passages.dim
        self._towers = {PASSAGE: passages, QUERY: queries}

    @property
    def fingerprint(self) -> str:
        """Of both towers, and of the one configuration."""
        return fingerprint([*(tower.fingerprint for tower in self._towers.values()), self.config.described])

    @property
    def passage_fingerprint(self) -> str:
        return self._towers[PASSAGE].passage_fingerprint

    def _encode(self, texts: Sequence[str], max_tokens: int, role: int = PASSAGE) -> tuple[Vectors, int]:
        return self._towers[role]._encode(texts, max_tokens, role)


def load_encoder(
    model: str | None = None,
    *,
    pooling: Pooling | None = None,
    normalize: bool = False,
    prompt: str | None = None,
    precision: Precision = "float32",
    device: str = "cpu",
    batch_size: int = 1024,
    base: str | None = None,
) -> TextEncoder:
    """Load an encoder.

    Args:
        model: one of our checkpoints (one folder, or two towers in its folders `query` and `passage`), a
            sentence-transformers folder, a plain Hugging Face folder (needs `pooling`), a name of `builtin.BUILTIN`, a hub
            name, or None for the encoder that comes with the package.
        prompt: replaces the checkpoint's prompts, for every task.
        base: where the backbone of a tuned model is, if not where it was.

    Raises:
        InputError: for a model that is missing, has no safetensors weights, lacks weights of its backbone, or does not
            say how it pools.
    """
    folder = model_folder(model)
    if is_tuned(folder):
        if precision == "int8":
            raise InputError(f"--precision int8: {folder} is a tuned model, which has float32 only; export it where it can be merged")
        return _load_tuned(
            folder,
            base,
            read_config(folder, pooling, normalize, longest(base_folder(folder, base))).with_prompt(prompt),
            device,
            batch_size,
        )
    if base is not None:
        raise InputError(f"--base {base}: --model {folder} is a whole model; only a tuned one has a base")
    towers = [folder / "passage", folder / "query"] if is_untied(folder) else [folder]
    loaded = [_load_tower(tower, pooling, normalize, prompt, precision, device, batch_size) for tower in towers]
    if len({encoder.dim for encoder in loaded}) > 1:
        raise InputError(f"--model {folder}: its towers give vectors of {loaded[0].dim} and {loaded[1].dim} numbers; they must be equal")
    return UntiedEncoder(*loaded) if len(loaded) > 1 else loaded[0]


def _load_tuned(folder: Path, base: str | None, config: EncoderConfig, device: str, batch_size: int) -> TextEncoder:
    """A frozen backbone with the modules in `folder`."""
    from taco_ir.encoders.adapters.encoder import TunedEncoder

    usable_device(device)
    backbone, tokenizer, head = load_backbone(base_folder(folder, base), config)
    tuning = load_tuning(backbone, folder)
    record = read_record(folder)
    return TunedEncoder(tuning, record, backbone, tokenizer, config, folder, device=device, batch_size=batch_size, head=head)


def is_untied(folder: Path) -> bool:
    return (folder / "query").is_dir() and (folder / "passage").is_dir()


def own_config(folder: Path) -> EncoderConfig:
    """The configuration that a trained encoder brings. Raises: InputError for a folder that does not say how it pools."""
    own = folder / "passage" if is_untied(folder) else folder
    if not describes_itself(own):
        raise InputError(f"{folder}: a trained encoder has taco_ir.json or modules.json, which say how it pools; this has neither")
    return read_config(own, None, False, longest(base_folder(own) if is_tuned(own) else own))


def _load_tower(
    folder: Path, pooling: Pooling | None, normalize: bool, prompt: str | None, precision: Precision, device: str, batch_size: int
) -> TextEncoder:
    if precision == "int8" and usable_device(device).type != "cpu":
        raise InputError(f"--precision int8 runs on the CPU; --device is {device!r}")
    usable_device(device)
    weights = weights_digest(folder)
    config = read_config(folder, pooling, normalize, longest(folder))
    if precision == "int8" and config.roles in MODULES:
        raise InputError(f"--precision int8: {folder} has a module for each role (roles {config.roles}), which have float32 only")
    backbone, tokenizer, head = load_backbone(folder, config)
    roles = load_learned(config.roles, folder, backbone)
    return TextEncoder(backbone, tokenizer, config.with_prompt(prompt), folder, weights, precision, device, batch_size, head, roles)


def usable_device(name: str) -> torch.device:
    """The device of --device. Raises: InputError for one that torch cannot use."""
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name!r}: torch cannot use it here ({str(error).splitlines()[0]})") from error


def model_folder(model: str | None) -> Path:
    """A local folder as it is, an encoder known by name, or the files that a hub has under a name (fetched, or found in its cache).

    None is the encoder that comes with the package.

    Raises:
        InputError: where there is none.
    """
    if model is None:
        return shipped_folder()
    folder = Path(model)
    if folder.is_dir():
        return folder
    if model in BUILTIN:
        return BUILTIN[model]()
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(f"--model {model!r}: no such folder")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub client raises many kinds, none of which a user can tell from another
        raise InputError(
            f"--model {model!r}: no such folder, and the hub does not give it ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def _require_weights(folder: Path) -> None:
    """Raise InputError for a folder without weights or configuration, of modules alone, or that names weights of another kind."""
    if is_tuned(folder):
        from taco_ir.encoders.adapters.merging import mergeable

        record = read_record(folder)
        merged = ", or what export --what huggingface makes of both" * mergeable(record)
        raise InputError(
            f"--model {folder}: it is modules of {record.method} on a frozen backbone, and a whole model is needed; give the backbone,"
            f" {base_name(folder, record)}{merged}"
        )
    refuse_other_weights(folder)
    weights = any(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        missing = "model.safetensors (pickled weights are not read)" if not weights else "config.json"
        raise InputError(f"--model {folder}: a model folder needs config.json and safetensors weights; missing: {missing}")


def weights_digest(folder: Path) -> str:
    """Hash of all files that vectors can depend on. Raises: InputError for a folder without weights, configuration or tokenizer."""
    _require_weights(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "spiece.model")):
        raise InputError(f"--model {folder}: no tokenizer.json, vocab.txt or spiece.model")
    return fingerprint(contents_hashes(folder))


def load_backbone(folder: Path, config: EncoderConfig) -> tuple[torch.nn.Module, Tokenizer, torch.nn.Module | None]:
    """Backbone in float32, its fast tokenizer, and the linear head where `config` has one; from local files only.

    Raises:
        InputError: for a model that transformers cannot load, that lacks weights, or that cannot pool as `config` says.
    """
    backbone, tokenizer, _ = read_backbone(folder, config)
    return backbone, tokenizer, _load_head(folder, backbone.config.hidden_size, config.head) if config.head else None


class Backbone(NamedTuple):
    """A model of transformers in float32, its fast tokenizer, and parameters that are new because its files lack them (a pooler's)."""

    module: Any
    tokenizer: Tokenizer
    new: frozenset[str]


def read_backbone(folder: Path, config: EncoderConfig) -> Backbone:
    """The backbone alone, from plain weights or weights in 8 bits. Raises: InputError as `load_backbone`."""
    import torch
    import transformers
    from safetensors import SafetensorError

    _require_weights(folder)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = read_json(folder / "config.json").get("model_type")
    if config.pooling == "decoder" and kind != "t5":
        raise InputError(f"--model {folder}: pooling 'decoder' needs a T5 model, this is {kind!r}")
    loader = transformers.T5EncoderModel if kind == "t5" and config.pooling != "decoder" else transformers.AutoModel
    try:
        if is_int8(folder):
            backbone, report = _from_8_bits(loader, folder)
        else:
            backbone, report = loader.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"--model {folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise InputError(f"--model {folder}: weights lack {len(missing)} tensors of a {kind} model, first {sorted(missing)[0]!r}")
    fast: Tokenizer = tokenizer.backend_tokenizer
    fast.no_padding()
    return Backbone(backbone, fast, frozenset(report["missing_keys"]))


def _from_8_bits(loader: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model and transformers' report, from weights that we restore."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    delattr(config, KEY)  # what is loaded, and saved again, is plain
    if loader is transformers.AutoModel:  # it has no class for weights without files
        with torch.device("meta"):
            loader = type(loader.from_config(config))
    found: tuple[Any, dict[str, Any]] = loader.from_pretrained(
        None, config=config, state_dict=read_weights(folder), dtype=torch.float32, output_loading_info=True
    )
    return found


def _load_head(folder: Path, inputs: int, outputs: int) -> torch.nn.Module:
    """The linear layer behind the pooling. Raises: InputError where its file is missing or has another shape."""
    import torch
    from safetensors.torch import load_file

    path = folder / HEAD_FILE
    found = load_file(path) if path.is_file() else {}
    if set(found) != {"weight"} or found["weight"].shape != (outputs, inputs):
        raise InputError(f"{path}: a head of {outputs} x {inputs} numbers named 'weight' is needed")
    head = torch.nn.Linear(inputs, outputs, bias=False)
    head.load_state_dict(found)
    return head


def longest(folder: Path) -> int:
    """Most tokens that the backbone's positions and the tokenizer take. Raises: InputError for a folder that holds no model."""
    _require_weights(folder)
    config = read_json(folder / "config.json")
    positions = config.get("max_position_embeddings", DEFAULT_POSITIONS)  # T5 has relative positions and names none
    if config.get("model_type") in PADDED_POSITIONS:
        positions -= 2
    path = folder / "tokenizer_config.json"
    stated = read_json(path).get("model_max_length") if path.is_file() else None
    return min(positions, int(stated)) if stated else int(positions)


def _int8(backbone: torch.nn.Module) -> torch.nn.Module:
    """Linear layers in int8 with a scale per output channel; activations are scaled per batch."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of this interface, in two ways
        quantized: torch.nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            backbone, {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8
        )
    return quantized
