"""The modules of a sentence-transformers folder: its Transformer, pooling, linear layers, routes and prompts.

`modules.json` lists them. A Router (formerly Asym) has separate modules for queries and for documents.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from taco_ir.core.files import InputError, check_type, read_json
from taco_ir.core.typed import abbreviate
from taco_ir.encoders.config import ACTIVATIONS, ANY_TASK, EncoderConfig, Pooling

MODULES_FILE = "modules.json"
PROMPTS_FILE = "config_sentence_transformers.json"
LENGTHS_FILE = "sentence_bert_config.json"
OWN = "sentence_transformers."  # package of the library's modules; other classes are code in the folder
PASSAGE_PROMPTS = ("document", "passage", "corpus")
ROUTERS = ("Router", "Asym")
ROUTES = {"query": ("query",), "passage": (*PASSAGE_PROMPTS, "doc")}  # names of routes, by tower
KINDS = ("Transformer", "Pooling", "Normalize", "Dense", *ROUTERS)
THEIR_POOLING: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}


class Entry(NamedTuple):
    """Keys that are read from an entry of modules.json: class and folder of a module."""

    type: str
    path: str


class RouterParameters(NamedTuple):
    """Keys that are read from a router's parameters: the route for each task and for each type of input."""

    route_mappings: dict[str, str] | None = None


class Routes(NamedTuple):
    """Keys that are read from a router's configuration: classes of its modules, and names of each route's modules."""

    types: dict[str, str]
    structure: dict[str, tuple[str, ...]]
    parameters: RouterParameters = RouterParameters()


class Lengths(NamedTuple):
    """Keys that are read from sentence_bert_config.json: maximum tokens of any text, query, passage; lowercasing."""

    max_seq_length: Annotated[int, 1] | None = None
    query_length: Annotated[int, 1] | None = None
    document_length: Annotated[int, 1] | None = None
    do_lower_case: bool | None = None


class PoolingConfig(NamedTuple):
    """Keys that are read from a pooling module's config.json; older files have a key for each way of pooling."""

    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True


class Dense(NamedTuple):
    """Keys that are read from the config.json of a Dense module, which is a linear layer."""

    out_features: Annotated[int, 1]
    activation_function: str = "Tanh"
    module_input_name: str = "sentence_embedding"
    module_output_name: str | None = None
    use_residual: bool = False


class Prompts(NamedTuple):
    """Keys that are read from config_sentence_transformers.json: prompts by name, and the type of the model."""

    prompts: dict[str, str] | None = None
    model_type: str | None = None


class Module(NamedTuple):
    """A module of a sentence-transformers folder: its class and its folder."""

    kind: str
    place: Path


def has_routes(folder: Path) -> bool:
    """Whether a sentence-transformers folder has separate modules for queries and documents."""
    entries = read_json(folder / MODULES_FILE, list[Entry], others=True)
    return any(entry.type.rpartition(".")[2] in ROUTERS for entry in entries)


def list_modules(folder: Path, route: str = "") -> list[Module]:
    """List the modules that process texts, in their order in the folder.

    Args:
        route: `query` or `passage`, if the folder has separate modules for the two; otherwise empty.

    Raises:
        InputError: for unsupported modules, or modules that are code in the folder, which is never run.
    """
    path = folder / MODULES_FILE
    found: list[Module] = []
    for entry in read_json(path, list[Entry], others=True):
        module = _module(path, entry.type, folder, entry.path)
        if module.kind not in ROUTERS:
            found.append(module)
        elif route:
            found += _routed(module.place, route)
        else:
            raise InputError(
                f"{path}: a {module.kind}, which has separate modules for queries and documents; such a model can "
                "be used for search, but not trained or exported"
            )
    return found


def transformer_folder(folder: Path, route: str = "") -> Path:
    """Return the folder of the backbone's files: the Transformer module's folder, or `folder` if there is no module."""
    return next((module.place for module in list_modules(folder, route) if module.kind == "Transformer"), folder)


def dense_files(folder: Path, route: str = "") -> list[Path]:
    """Return the weight files of the linear layers, in order. Raises: InputError if a safetensors file is missing."""
    found = [each.place / "model.safetensors" for each in list_modules(folder, route) if each.kind == "Dense"]
    for path in found:
        if not path.is_file():
            raise InputError(
                f"{path}: missing; SentenceTransformer(FOLDER).save(NEW) writes it; pickled weights are not read"
            )
    return found


def _module(path: Path, kind: str, folder: Path, place: str) -> Module:
    name = kind.rpartition(".")[2]
    if not kind.startswith(OWN):
        what = "a ColBERT model of PyLate, with a vector for each token" if kind.startswith("pylate.") else "code"
        raise InputError(
            f"{path}: type is {abbreviate(kind)}: {what}; taco_ir never runs a model's own code, and needs one "
            "vector per text"
        )
    if name not in KINDS:
        raise InputError(f"{path}: type names the module {abbreviate(name)}; supported: {', '.join(KINDS)}")
    if not os.path.isdir(folder / place) and name != "Normalize":  # noqa: PTH112  (no for any text)
        raise InputError(f"{path}: path is {abbreviate(place)}, but the model has no such folder")
    return Module(name, folder / place)


def _routed(router: Path, route: str) -> Iterator[Module]:
    """Yield the modules of the route for queries or passages. Raises: InputError if the router has no such route."""
    path = next((router / name for name in ("router_config.json", "config.json") if (router / name).is_file()), router)
    said = read_json(path, Routes, others=True)
    mapped = said.parameters.route_mappings or {}
    names = [mapped.get(f"('{name}', {kind})") for name in ROUTES[route] for kind in ("'text'", "None")]
    names += [*(mapped.get(f"(None, {kind})") for kind in ("'text'", "None")), *ROUTES[route]]
    name = next((name for name in names if name and said.structure.get(name)), None)
    if name is None:
        raise InputError(
            f"{path}: key 'structure' has no route {' or '.join(ROUTES[route])}, only {', '.join(said.structure)}; a"
            " model needs a route for queries and a route for passages"
        )
    for key in said.structure[name]:
        if key not in said.types:
            raise InputError(f"{path}: key structure names the module {abbreviate(key)}, which key types lacks")
        yield _module(path, said.types[key], router, key)


def read_modules(folder: Path, longest: int, route: str = "") -> EncoderConfig:
    """Read the configuration of a sentence-transformers folder. Raises: InputError for unsupported modules.

    Args:
        longest: the maximum number of tokens for the backbone.
        route: as in `list_modules`.
    """
    pooling: Pooling | None = None
    normalize, query, passage, lowercase = False, longest, longest, False
    layers: list[Dense] = []
    path = folder / MODULES_FILE
    for kind, place in list_modules(folder, route):
        if kind == "Transformer":
            query, passage, lowercase = _lengths(place, longest)
        elif kind == "Pooling":
            pooling = _pooling(place / "config.json")
        elif kind == "Dense":
            layers.append(_dense(place / "config.json", pooling is not None and not normalize))
        else:
            normalize = True
    prompts, passage_prompt = _prompts(folder)
    if pooling is None:
        raise InputError(f"{path}: it lists no Pooling module; an encoder needs one")
    head = layers[-1].out_features if layers else 0
    activations = " ".join(layer.activation_function for layer in layers)
    read = (pooling, normalize, prompts, query, dict[str, int](), passage)
    return EncoderConfig(*read, head=head, head_layers=activations, lowercase=lowercase, passage_prompt=passage_prompt)


def _lengths(module: Path, longest: int) -> tuple[int, int, bool]:
    """Return the maximum number of tokens of a query and of a passage, and whether texts are lowercased."""
    path = next((path for path in sorted(module.glob("sentence_*_config.json"))), module / LENGTHS_FILE)
    values = read_json(path, Lengths, others=True) if path.is_file() else Lengths()
    both = values.max_seq_length or longest
    lengths = min(values.query_length or both, longest), min(values.document_length or both, longest)
    return *lengths, bool(values.do_lower_case)


def _dense(path: Path, placed: bool) -> Dense:
    said = read_json(path, Dense, others=True)
    name = said.activation_function.rpartition(".")[2]
    if name not in ACTIVATIONS:
        valid = ", ".join(ACTIVATIONS)
        raise InputError(
            f"{path}: activation_function is {abbreviate(said.activation_function)}; allowed from torch.nn: {valid}"
        )
    inside = (said.module_input_name, said.module_output_name or said.module_input_name)
    if not placed or said.use_residual or set(inside) != {"sentence_embedding"}:
        raise InputError(
            f"{path}: a Dense module is supported only between Pooling and Normalize, with module_input_name and "
            "module_output_name sentence_embedding, and without use_residual"
        )
    return said._replace(activation_function=name)


def _pooling(path: Path) -> Pooling:
    values = read_json(path, dict[str, Any])
    said = check_type(values, PoolingConfig, str(path), others=True)
    start = "pooling_mode_"
    modes = check_type({key: on for key, on in values.items() if key.startswith(start)}, dict[str, bool], str(path))
    on = [key.removeprefix(start).removesuffix("_token").removesuffix("_tokens") for key in modes if modes[key]]
    given = on if said.pooling_mode is None else said.pooling_mode
    mode = given if isinstance(given, str) else "+".join(given)
    if mode not in THEIR_POOLING or not said.include_prompt:
        raise InputError(
            f"{path}: pooling is {abbreviate(mode)}, include_prompt {said.include_prompt};"
            f" allowed: {' or '.join(THEIR_POOLING)} (pooling_mode_mean_tokens, pooling_mode_cls_token or"
            " pooling_mode_lasttoken), with include_prompt true"
        )
    return THEIR_POOLING[mode]


def _prompts(folder: Path) -> tuple[dict[str, str], str]:
    """Return query prompts by task, and the passage prompt, as encode_query and encode_document use them."""
    path = folder / PROMPTS_FILE
    said = read_json(path, Prompts, others=True) if path.is_file() else Prompts()
    if said.model_type not in (None, "SentenceTransformer"):
        raise InputError(f"{path}: model_type is {abbreviate(said.model_type)}; a SentenceTransformer is needed")
    named = said.prompts or {}
    passage = next((named[name] for name in PASSAGE_PROMPTS if name in named), "")
    queries = {task: text for task, text in named.items() if task not in (*PASSAGE_PROMPTS, "query")}
    if "query" in named and (named["query"] or queries):
        queries[ANY_TASK] = named["query"]
    return queries, passage
