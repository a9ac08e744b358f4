"""The inventory: what data there is, how large it is, and where it is stored, as rows of text below a header."""

from __future__ import annotations

from pathlib import Path

from taco_ir.core.processes import format_bytes
from taco_ir.core.tasks import KINDS
from taco_ir.data.collection import PASSAGE_FILES, Collection, open_collection
from taco_ir.data.kilt_files import KILT_FILES, SOURCE_PAGES, SOURCE_SIZE, kilt_folder, knowledge_source


def list_everything() -> list[list[str]]:
    """A row for the sample, each of its topics, and each file of KILT, whether it was fetched or not."""
    sample = open_collection("sample")
    path = sample.passage_path
    rows = [
        ["id", "kind", "records", "size", "where"],
        _file_row("sample", "passages", sample.passages.count, path.stat().st_size, path),
    ]
    for topics in sample.topics_names:
        count = len(sample.load_topics(str(topics)).queries)
        rows.append([f"sample/{topics.task}/{topics.split}", KINDS[topics.task], f"{count:,}", "-", "embedded"])
    for topics, file in KILT_FILES.items():
        size = file.path.stat().st_size if file.path.is_file() else file.size
        rows.append(_file_row(f"kilt/{topics.task}/{topics.split}", KINDS[topics.task], file.records, size, file.path))
    rows.append(_file_row("kilt/knowledgesource", "pages", SOURCE_PAGES, SOURCE_SIZE, knowledge_source()))
    built = next((path for name in PASSAGE_FILES if (path := kilt_folder() / name).is_file()), None)
    built_size = format_bytes(built.stat().st_size) if built else "-"
    rows.append(["kilt", "passages", "-", built_size, str(built or "not built")])
    return rows


def describe(collection: Collection) -> str:
    """What a collection was recognised as, and how many passages it has."""
    pages = "which belong to pages" if collection.passages.has_pages else "each a page of its own"
    return f"{collection.name}: {collection.layout}, {collection.passages.count:,} passages, {pages}"


def list_topics(collection: Collection) -> list[list[str]]:
    """A row for each of a collection's topics: the number of queries, and of those with evidence."""
    rows = [["topics", "queries", "judged"]]
    for topics in collection.topics_names:
        queries = collection.load_topics(str(topics)).queries
        rows.append(
            [str(topics), f"{len(queries):,}", f"{sum(bool(query.evidence or query.grades) for query in queries):,}"]
        )
    return rows


def _file_row(name: str, kind: str, records: int | None, size: int | None, path: Path) -> list[str]:
    where = str(path) if path.is_file() else "not fetched"
    return [name, kind, f"{records:,}" if records else "-", format_bytes(size) if size else "-", where]
