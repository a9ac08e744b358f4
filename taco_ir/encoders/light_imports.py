"""Imports transformers without parts that encoding does not need, which halves the time of a single query.

The omitted parts are torch's compiler and libraries for training on many machines: transformers is imported as if
accelerate, scipy and torch.distributed were not installed. A command that answers one query spends most of its time on
imports. The effect lasts until the process ends, so only commands do this, not programs that import this package.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from taco_ir.core.processes import OURS, collector_paused

LIGHT = threading.Event()
WHOLE = "transformers.modeling_utils"  # if this module is imported, all of transformers is
SHARED = (WHOLE, "transformers.generation.utils", "transformers.masking_utils")
# functions of transformers.utils that say what is installed
ABSENT = (
    *("is_accelerate_available", "is_scipy_available", "is_torch_distributed_available"),
    "is_torch_flex_attn_available",
)
COMPILER, TRACING = "torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op"
USED = "TransformGetItemToIndex"  # name in TRACING, used by masks that text models do not have
STRUCTURE = "define_import_structure"  # function in IMPORTS that reads the names in all files below a folder
IMPORTS, MODELS = "transformers.utils.import_utils", "models"


def prefer_light_imports() -> None:
    """Make `lightly` leave out what encoding does not need. Only for commands, as this affects the whole process."""
    if OURS.is_set():
        LIGHT.set()


@contextmanager
def lightly() -> Iterator[None]:
    """A context to import transformers and load a model without parts that encoding does not need.

    It has an effect only after `prefer_light_imports`, and if the modules are not imported yet.
    """
    if not LIGHT.is_set() or COMPILER in sys.modules:
        yield
        return
    import_module("torch")
    with ExitStack() as light:
        light.enter_context(_without_compiler())
        if WHOLE not in sys.modules:
            if not _import_transformers():
                light.close()
            gc.freeze()  # what was imported stays, so no collection needs to look at it
        yield


def _import_transformers() -> bool:
    """Import transformers without what encoding does not need. If this fails, undo the import and return False."""
    before = {*sys.modules}
    try:
        with collector_paused(), _without_packages(), _files_read_once():
            for name in SHARED:
                import_module(name)
    except Exception:
        for name in sys.modules.keys() - before:
            if name.partition(".")[0] == "transformers":
                del sys.modules[name]
        return False
    return True


@contextmanager
def _without_packages() -> Iterator[None]:
    """In this context, transformers finds that some packages are not installed."""
    asked = [import_module(name) for name in (IMPORTS, "transformers.utils")]
    found = [(module, name, getattr(module, name)) for module in asked for name in ABSENT if hasattr(module, name)]
    try:
        for module, name, _ in found:
            setattr(module, name, lambda: False)
        yield
    finally:
        for module, name, function in found:
            setattr(module, name, function)


@contextmanager
def _files_read_once() -> Iterator[None]:
    """In this context, `transformers.models` takes the names in its files from `transformers`, which has read them."""
    imports = import_module(IMPORTS)
    read, folder = getattr(imports, STRUCTURE), Path(imports.__file__ or "").parents[1] / MODELS

    def known(path: str, prefix: str | None = None) -> Any:
        if prefix is not None or Path(path).parent != folder:
            return read(path, prefix)
        start = f"{MODELS}."
        return {
            needed: {name.removeprefix(start): found for name, found in names.items() if name.startswith(start)}
            for needed, names in read(folder, prefix=MODELS).items()
        }

    setattr(imports, STRUCTURE, known)
    try:
        yield
    finally:
        setattr(imports, STRUCTURE, read)


class _Compiler(ModuleType):
    """Stands in for torch's compiler: its decorators return functions unchanged."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _not_compiled


@contextmanager
def _without_compiler() -> Iterator[None]:
    """In this context, modules with the names that transformers uses stand in for torch's compiler."""
    compiler, tracing = _Compiler(COMPILER), ModuleType(TRACING)
    compiler.__path__ = []
    setattr(tracing, USED, _real)
    sys.modules.update({COMPILER: compiler, TRACING: tracing})
    try:
        yield
    finally:
        for name in (COMPILER, TRACING):
            sys.modules.pop(name)
        vars(sys.modules["torch"]).pop("_dynamo", None)


def _not_compiled(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Stand in for a decorator of torch's compiler: return the function unchanged."""
    return function if function is not None else lambda each: each


def _real() -> Any:
    """Return the object of torch's compiler that this module stood in for."""
    return getattr(import_module(TRACING), USED)()
