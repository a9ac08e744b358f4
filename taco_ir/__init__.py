"""taco_ir: multi-task dense retrieval on KILT, integrated with Pyserini.

The main entry points are `open_collection`, `load_encoder`, `search`, `Retriever`, `evaluate`, `mine`, `train`,
`leaderboard`, and the weightings (`Taco` and others), which work in any PyTorch loop. Public names are loaded on first
use, so `import taco_ir` is fast; `taco_ir.load_encoder`, for instance, imports torch. Their types are in
`__init__.pyi`, which `docs/generate.py` writes.
"""

import sys
from types import ModuleType

from taco_ir.core import resolve

__version__ = "0.1.0"
_WHERE = {
    "adaptation.run": ("adapt",),
    "adaptation.settings": ("AdaptSettings",),
    "core.errors": ("InputError",),
    "core.run_formats": ("read_trec", "write_trec"),
    "core.types": ("EvidenceSet", "Passage", "Query", "Ranking", "Run"),
    "data.collection": ("Collection", "Topics", "open_collection"),
    "data.ir_datasets": ("dataset", "register_collection"),
    "encoders.config": ("EncoderConfig",),
    "encoders.text_encoder": ("TextEncoder", "load_encoder"),
    "evaluation.evaluating": ("Evaluation", "evaluate"),
    "evaluation.measures": ("Measure", "Scores"),
    "negatives.filters": ("MiningSettings",),
    "negatives.mining": ("MiningReport", "mine"),
    "retrieval.choices": ("ModelChoice", "SearchRequest"),
    "retrieval.pyserini_bridge": ("TacoDocumentEncoder", "TacoQueryEncoder"),
    "retrieval.retriever": ("Hit", "Hits", "Retriever", "search"),
    "studies.tables": ("Leaderboard", "leaderboard"),
    "training.run": ("train",),
    "training.settings": ("TrainSettings",),
    "weighting.base": ("StepReport", "TaskWeighting"),
    "weighting.cgd": ("CommonGradientDescent",),
    "weighting.fixed": ("Naive", "Static"),
    "weighting.gradnorm": ("GradNorm",),
    "weighting.pcgrad": ("PCGrad",),
    "weighting.taco": ("Taco",),
    "weighting.uw": ("UncertaintyWeighting",),
}
_PUBLIC = {name: f"taco_ir.{module}:{name}" for module, names in _WHERE.items() for name in names}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'taco_ir' has no attribute {name!r}")
    return resolve(_PUBLIC[name])


class _Package(ModuleType):
    """The type of this package. Importing a verb's module does not hide the function of the same name.

    So `taco_ir.search(...)` always searches, and `from taco_ir.search import main` imports the verb.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
