"""Collections as tables: a parquet file, a folder that Hugging Face's datasets saved, or a data set of a hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Passage
from taco_ir.data.formats.base import Format, Key, Record, Source, hash_files

COLUMNS = {"id": "id", "title": "title", "text": "text"}  # role -> default name of its column
CHOICES = ("config", "split")  # config and split of a hub's data set, or split of a saved data set
SAVED = ("dataset_info.json", "dataset_dict.json")
ROWS = 1000  # read at once
HUB_TIMEOUT = 10.0  # seconds that a hub may take to answer


def _recognises(path: Path) -> bool:
    return path.suffix == ".parquet" or any((path / name).is_file() for name in SAVED)


def _open(place: str, columns: Mapping[str, str]) -> Source:
    if unknown := columns.keys() - COLUMNS.keys() - set(CHOICES):
        raise InputError(
            f"--columns {min(unknown)}={columns[min(unknown)]}: unknown; allowed: {', '.join([*COLUMNS, *CHOICES])}"
        )
    table, layout, files = _table(place, columns)
    names = {role: columns.get(role, name) for role, name in COLUMNS.items()}
    known = table.column_names
    if "title" not in columns and "title" not in known:
        names.pop("title")  # titles are optional
    for role, name in names.items():
        if name not in known:
            raise InputError(
                f"--collection {place}: it has no column {name!r} for the {role}, only {', '.join(known)}; choose "
                f"one by --columns {role}=NAME"
            )
    return Source(
        layout,
        Path(place).stem or place,
        place,
        partial(_key, files, names),
        partial(_passages, table, names, place),
        {},
    )


def _key(files: Sequence[Path], names: Mapping[str, str]) -> Key:
    """Return what the passages depend on: the files and the columns to read."""
    return Key([hash_files(files).passages, sorted(names.items())], [])


def _table(place: str, columns: Mapping[str, str]) -> tuple[Any, str, list[Path]]:
    """Return the table as a data set of Hugging Face's library, the name of its format, and its files."""
    try:
        import datasets
        from huggingface_hub import HfApi, constants
    except ImportError as error:
        raise InputError(
            f"--collection {place}: reading it needs the package datasets; install it with `pip install datasets`"
        ) from error
    path, offline = Path(place), constants.HF_HUB_OFFLINE
    of_hub = path.suffix != ".parquet" and not path.is_dir()
    split = columns.get("split")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # otherwise it logs errors before it raises them
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if path.suffix == ".parquet":
            found: Any = datasets.Dataset.from_parquet(str(path))
            return found, "parquet file", [path]
        if not of_hub:
            found, layout = datasets.load_from_disk(str(path)), "saved Hugging Face data set"
        else:
            if not offline:  # loading alone would try for half a minute
                HfApi().dataset_info(place, timeout=HUB_TIMEOUT)
            found, layout = datasets.load_dataset(place, columns.get("config")), "data set of a Hugging Face hub"
    except Exception as error:  # errors of pyarrow, the hub and the library have no common base
        said = f"--collection {place}: it cannot be opened ({type(error).__name__}: {abbreviate(str(error))})"
        if of_hub and offline:
            said += "; HF_HUB_OFFLINE is set, so nothing is downloaded"
        elif of_hub and type(error).__name__.startswith("Connect"):  # an error of the library that sends requests
            said += "; set HF_HUB_OFFLINE=1 to use an earlier download"
        raise InputError(said) from error
    if isinstance(found, datasets.DatasetDict):
        if split is None and len(found) > 1:
            raise InputError(
                f"--collection {place}: it has splits {', '.join(map(str, found))}; choose one by --columns split=NAME"
            )
        if split is not None and split not in found:
            raise InputError(f"--columns split={split}: no such split; allowed: {', '.join(map(str, found))}")
        found = found[split or next(iter(found))]
    return found, layout, [Path(file["filename"]) for file in found.cache_files]


def _passages(table: Any, names: Mapping[str, str], place: str) -> Iterator[Record]:
    row = 0
    for batch in table.iter(ROWS):
        columns = {role: batch[name] for role, name in names.items()}
        for place_in_batch, docid in enumerate(columns["id"]):
            row += 1
            where = f"{place}, row {row}"
            title = columns["title"][place_in_batch] if "title" in columns else ""
            text = columns["text"][place_in_batch]
            if not isinstance(docid, str | int) or not isinstance(text, str) or not isinstance(title or "", str):
                said = f"its id is {abbreviate(docid)}, its title {abbreviate(title)}, its text {abbreviate(text)}"
                raise InputError(f"{where}: {said}; id and text are needed, and all must be texts (ids may be numbers)")
            yield Record(Passage(str(docid), str(docid), title or "", text), where)


HUGGING_FACE = Format(_recognises, _open)
