"""Encodes texts as vectors, with BERT-type and T5 backbones, from our own checkpoints or other models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.core.hashes import fingerprint
from taco_ir.core.processes import collector_paused
from taco_ir.core.tasks import TASK_NAMES, resolve_task
from taco_ir.core.types import Passage, Vectors, refuse_text
from taco_ir.encoders.adapters.folder import BARE, AdapterRecord, adapter_digest
from taco_ir.encoders.backbone import load_backbone, quantize_linears, usable_device
from taco_ir.encoders.config import ANY_TASK, LATER, NONE, EncoderConfig, Pooling, Role
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.pooling import Ids, batch_by_length, embed, pad, tokenize
from taco_ir.encoders.role_marks import ADAPTER_MARKS, RoleMarks, load_learned

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from taco_ir.encoders.adapters.adapter_set import Adapters

Precision = Literal["float32", "int8", "bf16", "fp16", "tf32"]
HALVES = {"bf16": "bfloat16", "fp16": "float16"}  # torch's names
TOKEN_BUDGET = 2048  # tokens in a batch: about what the caches of two cores hold
TOKEN_BUDGET_ELSEWHERE = 1 << 17  # an accelerator wants few large batches


class Tower:
    """A backbone with its tokenizer, pooling, head and role marks.

    Attributes:
        config: sets pooling and role marks; prompts, lengths and template come from TextEncoder.config.
        weights: hash of all files that the vectors depend on.
        dim: D, the width of a vector.
    """

    def __init__(
        self,
        backbone: torch.nn.Module,
        tokenizer: Tokenizer,
        config: EncoderConfig,
        weights: str,
        precision: Precision = "float32",
        device: str = "cpu",
        head: torch.nn.Module | None = None,
        roles: torch.nn.Module | None = None,
    ) -> None:
        import torch

        self.device = torch.device(device)
        self.backbone = quantize_linears(backbone.eval()) if precision == "int8" else backbone.eval().to(self.device)
        self.tokenizer = tokenizer
        self.config = config
        self.weights, self.precision = weights, precision
        self.dim: int = config.head or backbone.config.hidden_size  # type: ignore[union-attr,assignment]
        learned = roles.eval().to(self.device) if roles is not None else None
        self.marks = RoleMarks(config.roles, self.backbone, tokenizer, learned)
        self._head = head.to(self.device) if head is not None else None
        self._pad: int = backbone.config.pad_token_id or 0  # type: ignore[union-attr,assignment]

    def fingerprint(self, config: EncoderConfig) -> str:
        """Return a hash of this tower's weights, tokenizer and precision, and of `config`."""
        return fingerprint([self.weights, config.described, self.precision])

    def vectors(self, ids: Sequence[Ids], role: Role) -> torch.Tensor:
        """Encode a batch of tokenised texts of one role: float32 [B, D] on `device`, which may still be computing."""
        import torch

        pinned = self.device.type == "cuda"  # a copy of other memory would wait for all batches before
        padded = (each.pin_memory() if pinned else each for each in pad(ids, self._pad))
        ids_BL, mask_BL = (each.to(self.device, non_blocking=pinned) for each in padded)
        with torch.inference_mode(), self._arithmetic():
            marks = self.marks.inputs(ids_BL, torch.full((len(ids), 1), int(role), device=self.device))
            vectors_BD = embed(self.backbone, self.config, ids_BL, mask_BL, self._head, **marks)
        return vectors_BD.float()

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Multiply matrices in the encoder's number format, as training does; norms and sums stay in float32."""
        import torch

        half = getattr(torch, HALVES.get(self.precision, "float32"))
        before = torch.get_float32_matmul_precision()
        if self.precision == "tf32":
            torch.set_float32_matmul_precision("high")
        try:
            with torch.autocast(self.device.type, half) if self.precision in HALVES else nullcontext():
                yield
        finally:
            if self.precision == "tf32":
                torch.set_float32_matmul_precision(before)


class TextEncoder:
    """Encodes queries and passages, with one tower for both or one for each, and adapters if the model has any.

    Attributes:
        config: prompts, lengths and templates; also pooling, if it is the same in both towers.
        folder: the model's folder.
        towers: the tower (backbone, tokenizer and head) of each role; one object twice if both roles share weights.
        adapters, record: the adapters on the backbone, and which texts use which adapter; None: no adapters.
        dim: D, the width of a vector.
        truncated: number of queries that were truncated so far.
    """

    def __init__(
        self,
        towers: Mapping[Role, Tower],
        folder: Path,
        batch_size: int = 1024,
        adapters: Adapters | None = None,
        record: AdapterRecord | None = None,
    ) -> None:
        queries, passages = towers[Role.QUERY].config, towers[Role.PASSAGE].config
        read = ("passage_length", "passage_template", "passage_prompt")
        self.config = replace(queries, **{key: getattr(passages, key) for key in read})
        self.folder = folder
        self.towers = towers
        self.passage_template = passages.passage_form
        self.batch_size = batch_size
        self.truncated = 0
        self.dim = towers[Role.PASSAGE].dim
        self.adapters = adapters.to(towers[Role.PASSAGE].device).eval() if adapters is not None else None
        self.record = record
        tensors = adapters.stored() if adapters is not None else {}
        self._digests = {name: adapter_digest(record, tensors, name) for name in record.names} if record else {}
        weights = towers[Role.PASSAGE].weights
        self._passage_weights = adapter_digest(record, tensors, record.passage_adapter) if record else weights

    @property
    def fingerprint(self) -> str:
        """Hash of everything that vectors depend on: weights, tokenizer, configuration, precision, adapters."""
        if (record := self.record) is not None:
            said = [record.roles, record.tasks, dict(record.lent), self.config.described]
            return fingerprint([self.passage_fingerprint, self._digests, *said])
        passages, queries = self.towers[Role.PASSAGE], self.towers[Role.QUERY]
        if passages is queries:
            return passages.fingerprint(self.config)
        return fingerprint([*(tower.fingerprint(tower.config) for tower in (passages, queries)), self.config.described])

    @property
    def passage_fingerprint(self) -> str:
        """Hash of everything that passage vectors depend on, without adapters for queries. Indexes record this hash."""
        return self._hash_passages(self.towers[Role.PASSAGE].precision)

    @property
    def rounded_fingerprints(self) -> tuple[str, ...]:
        """The `passage_fingerprint` in formats other than float32; this encoder's queries can search these vectors."""
        return tuple(map(self._hash_passages, get_args(Precision)[1:]))

    def lowest_cosine(self, passages: Sequence[Passage]) -> float:
        """Return the lowest cosine between a passage's vector in this number format and its vector in float32; 1 for
        int8, which keeps no weights in float32.
        """
        tower = self.towers[Role.PASSAGE]
        own, found = tower.precision, []
        if own in ("float32", "int8"):
            return 1.0
        for precision in (own, get_args(Precision)[0]):
            tower.precision = precision
            vectors_ND = self.encode_passages(passages).astype(np.float64)
            found.append(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True))
        tower.precision = own
        return float((found[0] * found[1]).sum(1).min())

    def _hash_passages(self, precision: Precision) -> str:
        own = self.towers[Role.PASSAGE].config
        read = [self.config.passage_form, self.config.passage_length]
        said = {key: getattr(own, key) for key in ("head_layers", "lowercase") if getattr(own, key) != LATER[key]}
        marks = [own.roles] * (own.roles != NONE) + [said] * bool(said)
        return fingerprint([self._passage_weights, own.pooling, own.normalize, *read, precision, *marks])

    def encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        """Encode queries of one task with its prompt: float32 [B, D]. `truncated` counts truncated queries.

        Args:
            task: name or alias of the task; None: no task, so queries are encoded as for all other tasks (`*`).

        Raises:
            InputError: for an unknown task, a task that the model has no prompt or adapter for, or a single text.
        """
        refuse_text(texts, "queries")
        return self.encode_mixed_queries(texts, [task] * len(texts))

    def encode_mixed_queries(
        self, texts: Sequence[str], tasks: Sequence[str | None], known: Iterable[str] = ()
    ) -> Vectors:
        """Encode queries of several tasks, each with its task's prompt, length and adapter: float32 [B, D], in order.

        Args:
            known: tasks of the queries' collection, which may have names that neither the model nor KILT knows.
        """
        refuse_text(texts, "queries")
        refuse_text(tasks, "tasks, one for each query,")
        vectors_BD = np.empty((len(texts), self.dim), dtype=np.float32)
        for given in dict.fromkeys(tasks):
            rows = [row for row, own in enumerate(tasks) if own == given]
            task = self.resolve(given, known)
            adapter = self.record.query_adapter(task) if self.record is not None else None
            read = self.config.query_texts([texts[row] for row in rows], task)
            vectors_BD[rows], cut = self.encode_texts(read, self.config.max_query_tokens(task), Role.QUERY, adapter)
            self.truncated += cut
        return vectors_BD

    @property
    def tasks(self) -> set[str]:
        """Tasks with a prompt, a length or an adapter of their own; empty if all queries are encoded the same way."""
        adapted = {*self.record.tasks, *self.record.lent} if self.record is not None else set()
        return self.config.tasks | adapted - {ANY_TASK}

    def resolve(self, task: str | None, known: Iterable[str] = ()) -> str | None:
        """Return the canonical name of a task of the model, KILT or `known` tasks. Raises: InputError for others."""
        if not task or not self.tasks:
            return task
        try:
            return resolve_task(task, {*self.tasks, *TASK_NAMES, *known})
        except InputError as error:
            raise InputError(f"{error}; for queries of another task, give no task") from error

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        """Encode passages with the template: float32 [N, D]. Raises: InputError for a text instead of passages."""
        return self.prepare_passages(passages)()

    def prepare_passages(self, passages: Sequence[Passage]) -> Callable[[], Vectors]:
        """Tokenise passages, if need be in a thread; returns a function that computes and returns their vectors."""
        refuse_text(passages, "passages", "[taco_ir.Passage(docid, page, title, {})]")
        texts = [self.config.passage_text(passage) for passage in passages]
        adapter = self.record.passage_adapter if self.record is not None else None
        ids, _ = self._tokenize(texts, self.config.passage_length, Role.PASSAGE)
        return partial(self._encode, ids, Role.PASSAGE, adapter)

    def borrow(self, lenders: Mapping[str, str]) -> None:
        """Let tasks (`*`: all others) use their lender's prompt, length and adapter; a lender is a task or `none`.

        Raises:
            InputError: for a lender without prompt and adapter, or a task that already has its own.
        """
        if self.record is None:
            self.config = self.config.with_lenders(lenders)
            return
        if self.record.tasks or self.record.passage_adapter is None:
            self.record = self.record.with_lenders(lenders)
            lengths = {task: self.config.max_query_tokens(lender) for task, lender in lenders.items()}
            self.config = replace(self.config, query_lengths={**self.config.query_lengths, **lengths})
        if self.config.prompts:
            config = self.config.with_lenders({task: lender for task, lender in lenders.items() if lender != BARE})
            bare = {task: "" for task, lender in lenders.items() if lender == BARE}
            self.config = replace(config, prompts={**config.prompts, **bare})

    def encode_texts(
        self, texts: Sequence[str], max_tokens: int, role: Role, adapter: str | None = None
    ) -> tuple[Vectors, int]:
        """Encode texts without prompt or template; return vectors [N, D] and the number of truncated texts.

        Args:
            adapter: name of the adapter to use; None: use only the backbone.
        """
        ids, cut = self._tokenize(texts, max_tokens, role)
        return self._encode(ids, role, adapter), cut

    def _tokenize(self, texts: Sequence[str], max_tokens: int, role: Role) -> tuple[list[Ids], int]:
        tower = self.towers[role]
        return tokenize(tower.tokenizer, texts, max_tokens, tower.marks.marker(role))

    def _encode(self, ids: Sequence[Ids], role: Role, adapter: str | None) -> Vectors:
        """Vectors [N, D] of tokenised texts; an accelerator gets further batches before it has computed the first."""
        tower = self.towers[role]
        vectors_ND = np.empty((len(ids), self.dim), dtype=np.float32)
        tokens = TOKEN_BUDGET if tower.device.type == "cpu" else TOKEN_BUDGET_ELSEWHERE
        batches = list(batch_by_length([len(ids_L) for ids_L in ids], self.batch_size, tokens))
        used = self.adapters.used(adapter) if self.adapters is not None else nullcontext()
        with used, _workers(tower.device.type, len(batches)) as workers:
            spread = workers.map if len(batches) > 1 else map  # a thread costs a single query a tenth of its time
            found = spread(lambda batch: tower.vectors([ids[i] for i in batch], role), batches)
            for batch, vectors_BD in zip(batches, found, strict=True):
                vectors_ND[batch] = vectors_BD.cpu().numpy()
        return vectors_ND


@contextmanager
def _workers(device: str, batches: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads that take a whole batch each, since cores that share a batch wait for each other at every layer."""
    import torch

    threads = torch.get_num_threads()
    several = device == "cpu" and batches >= threads
    workers = ThreadPoolExecutor(threads, "", torch.set_num_threads, (1,)) if several else ThreadPoolExecutor(1)
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)
        if several:
            torch.set_num_threads(threads)


@collector_paused()  # garbage collection would find nothing: imports and models stay
def load_encoder(
    model: str | Path | None = None,
    *,
    pooling: Pooling | None = None,
    normalize: bool = False,
    prompt: str | None = None,
    passage_prompt: str | None = None,
    precision: Precision = "float32",
    device: str = "cpu",
    batch_size: int = 1024,
    base: str | None = None,
) -> TextEncoder:
    """Load an encoder.

    Args:
        model: a folder (see `model_folder.Kind`; a plain folder needs `pooling`), a built-in name (`names.BUILTIN`) or
            a name on the hub; None for the encoder that comes with the package.
        prompt: used for queries of all tasks, instead of the model's own prompts.
        passage_prompt: used instead of the model's own prompt for passages.
        base: folder of the adapters' backbone, if it is not as in their record.

    Raises:
        InputError: for a model that is missing, has no safetensors weights, lacks weights of its backbone, or does not
            record its pooling.

    Examples:
        >>> encoder = taco_ir.load_encoder()
        >>> queries = encoder.encode_queries(["who painted the mona lisa"], "nq")
        >>> passages = encoder.encode_passages([taco_ir.Passage("1#0", "1", "Mona Lisa", "Leonardo painted it.")])
        >>> (queries @ passages.T).shape
        (1, 1)
    """
    if precision == "tf32" and usable_device(device).type == "cpu":
        raise InputError(f"--precision tf32 runs only on GPUs; give --device cuda, not {device}")
    folder = ModelFolder.find(None if model is None else str(model))
    if (record := folder.record) is not None:
        if precision == "int8":
            raise InputError(f"--precision int8: {folder} has adapters, which work only in float32; {folder.advice}")
        from taco_ir.encoders.adapters.adapter_set import load_adapters

        below = folder.backbone(base)
        config = folder.config(pooling, normalize, below.longest).with_prompt(prompt, passage_prompt)
        usable_device(device)
        backbone, tokenizer, head = load_backbone(below, config)
        adapters = load_adapters(backbone, folder.path)
        tower = Tower(backbone, tokenizer, config, record.digest, precision, device, head)
        return TextEncoder(dict.fromkeys(folder.towers, tower), folder.path, batch_size, adapters, record)
    if folder.is_peft:
        folder = replace(folder, base=base)
    elif base is not None:
        raise InputError(f"--base {base}: --model {folder} is a whole model; --base is only for adapters, leave it out")
    options = (pooling, normalize, (prompt, passage_prompt), precision, device)
    loaded = {own: _load_tower(own, *options) for own in dict.fromkeys(folder.towers.values())}
    dims = [tower.dim for tower in loaded.values()]
    if dims[0] != dims[-1]:
        raise InputError(
            f"--model {folder}: its two towers make vectors of {dims[0]} and {dims[1]} dimensions; both must be "
            "the same"
        )
    return TextEncoder({role: loaded[own] for role, own in folder.towers.items()}, folder.path, batch_size)


def _load_tower(
    folder: ModelFolder,
    pooling: Pooling | None,
    normalize: bool,
    prompts: tuple[str | None, str | None],
    precision: Precision,
    device: str,
) -> Tower:
    if usable_device(device).type != "cpu" and precision == "int8":
        raise InputError(f"--precision int8 runs only on the CPU; leave out --device {device}")
    weights = folder.fingerprint
    config = folder.config(pooling, normalize)
    if precision == "int8" and config.roles in ADAPTER_MARKS:
        raise InputError(f"--precision int8: {folder} has adapters (roles {config.roles}), which work only in float32")
    backbone, tokenizer, head = load_backbone(folder, config)
    roles = load_learned(config.roles, folder.path, backbone)
    return Tower(backbone, tokenizer, config.with_prompt(*prompts), weights, precision, device, head, roles)
