"""Mines hard negatives into a file, from sources and for tasks given by name, and audits them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from taco_ir.core.files import InputError, require_writable
from taco_ir.core.processes import collector_paused
from taco_ir.core.types import refuse_text
from taco_ir.data.collection import Collection, open_collection
from taco_ir.evaluation.tables import Table
from taco_ir.negatives.audit import audit_file
from taco_ir.negatives.audit_counts import Audit
from taco_ir.negatives.audit_page import source_tables, summary
from taco_ir.negatives.filters import MiningSettings
from taco_ir.negatives.miner import Source, audit_path, check_minable, mine_file
from taco_ir.negatives.sources import open_sources
from taco_ir.retrieval.choices import ModelChoice, Shared
from taco_ir.scale.engines import Engine

if TYPE_CHECKING:
    import pandas


class MiningReport(NamedTuple):
    """The result of mining: a negatives file and its audit.

    Attributes:
        negatives: path of the negatives file, for `--negatives` and `TrainSettings(negatives=...)`.
        page: path of the audit as an HTML page, with examples to read.
        audit: the audit's numbers.
    """

    negatives: Path
    page: Path
    audit: Audit

    def tables(self) -> list[Table]:
        """Returns a table by topics and, if there are several sources, tables by source and of their overlaps."""
        return [summary(self.audit.tasks), *source_tables(self.audit.sources)]

    def to_pandas(self) -> pandas.DataFrame:
        """Returns a DataFrame of counts and estimated false negatives by topics. Raises: InputError without pandas."""
        return self.tables()[0].to_pandas()


@collector_paused()
def mine(
    collection: Collection | str | Path,
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    tasks: Sequence[str] = ("all",),
    split: str = "train",
    settings: MiningSettings | Sequence[MiningSettings] | None = None,
    model: ModelChoice | None = None,
    index: str | Path | None = None,
    overwrite: bool = False,
    engine: Engine | None = None,
) -> MiningReport:
    """Mine hard negatives for training queries into a file, and audit them.

    Args:
        collection: an opened collection, or its name.
        sources: "bm25", a model, a run file or a folder of runs. With several sources, negatives are taken from each
            source in turn, best first.
        output: the .jsonl file to write. Rankings are kept in a folder next to it, so that mining again is fast.
        tasks: tasks of the collection; "all" for every task with this split.
        settings: which hits become negatives; one for all sources, or one for each.
        model: how to encode with the models among the sources.
        index: a dense index for the only model among the sources.
        engine: its workers encode and search for models without an index; None: this process does.

    Raises:
        InputError: for topics without gold, an unknown source, or (without `overwrite`) an output made from something
            else.

    Examples:
        >>> settings = taco_ir.MiningSettings(depth=50, keep=8)
        >>> mined = taco_ir.mine("sample", "bm25", "negatives.jsonl", tasks=["nq"], settings=settings)
        >>> mined.to_pandas()[["topics", "gold kept"]].values.tolist()
        [['nq-train', 0]]
    """
    refuse_text(tasks, "tasks")
    collection = open_collection(collection)
    named = [str(each) for each in ([sources] if isinstance(sources, str | Path) else sources)]
    settings = settings or MiningSettings()
    each_settings = [settings] * len(named) if isinstance(settings, MiningSettings) else list(settings)
    if not tasks or not named or len(each_settings) != len(named):
        what = "no tasks" if not tasks else f"{len(named)} sources and {len(each_settings)} settings"
        raise InputError(f"{what}; give tasks, a source, and one settings for all sources or one for each")
    topics = [collection.topics(name) for name in collection.expand([f"{task}-{split}" for task in tasks])]
    output = Path(output)
    check_minable(topics, output)
    require_writable(output)
    shared = None if engine is None else Shared(engine)
    rankers = open_sources(named, collection, model or ModelChoice(), None if index is None else str(index), shared)
    retrieved = mine_file(collection, list(map(Source, rankers, each_settings)), topics, output, overwrite)
    return MiningReport(output, audit_path(output), audit_file(collection, topics, retrieved, output))
