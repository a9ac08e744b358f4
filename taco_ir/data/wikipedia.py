"""Cuts KILT's Wikipedia pages into passages of 100 words, as DPR does (Karpukhin et al. 2020, section 4.1).

The KILT knowledge source has one page a line with `wikipedia_id`, `wikipedia_title` and `text`, a list of paragraphs.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import orjson

from taco_ir.core.files import InputError, appending, exclusive, read_json, require_space, sync_path, write_json
from taco_ir.core.processes import log
from taco_ir.data.collection import PASSAGE_FILES
from taco_ir.data.downloads import GZIP_FAULTS, Report, take
from taco_ir.data.passage_store import PassageStore

BLOCK_PAGES = 50_000
GZIP_RATIO = 4  # unpacked text is about this many times as large


class Progress(NamedTuple):
    """How far a build is: bytes read from `source` and written to `target`, and numbers of pages and passages."""

    source: Annotated[int, 0] = 0
    target: Annotated[int, 0] = 0
    pages: Annotated[int, 0] = 0
    passages: Annotated[int, 0] = 0


class State(NamedTuple):
    """The saved state of an unfinished build: what it is made of (`recipe`), and how far it is (`done`)."""

    recipe: dict[str, Any]
    done: Progress


def build_passages(
    source: Path, target: Path, words: int = 100, report: Report | None = None, block_pages: int = BLOCK_PAGES
) -> Progress:
    """Cut the pages of `source` (JSON lines, plain or gzip) into passages and write them to `target`.

    If a build was killed, the same call resumes it after the last finished block of pages. Reading cannot begin in the
    middle of a gzip source, so with such a source the build starts again.

    Args:
        words: number of words in a passage.
        report: called with the number of source bytes read so far, and the size of the source in bytes.

    Raises:
        InputError: if a line is not a page, the target exists, another process is building it, or the disk is full.
    """
    if not source.is_file():
        raise InputError(f"{source}: no such file; get it with: python -m taco_ir.data get kilt/knowledgesource")
    part = target.with_name(target.name + ".part")
    state = _progress_file(target)
    status = source.stat()
    recipe = {"source": str(source.resolve()), "bytes": status.st_size, "time": status.st_mtime_ns, "words": words}
    if target.exists():
        return _finish(state, recipe, target)
    packed = source.suffix == ".gz"
    with appending(part) as sink:
        done = _read_progress(state, recipe, sink)
        sink.seek(done.target)
        sink.truncate()
        require_space(target.parent, (status.st_size - done.source) * (GZIP_RATIO if packed else 1))
        with _open_source(source, done.source) as (lines, position):
            for reached in _write_blocks(lines, sink, done, words, block_pages, str(source)):
                done = reached
                sink.flush()
                os.fsync(sink.fileno())
                write_json(state, {"recipe": recipe, "done": done._asdict()})
                if report:
                    report(position(), status.st_size)
        if not done.passages:
            raise InputError(f"{source}: its {done.pages} pages have no text to cut into passages")
        part.replace(target)
    return _finish(state, recipe, target)


def _finish(state: Path, recipe: dict[str, Any], target: Path) -> Progress:
    """Remove the progress file of a complete build. Raises: InputError if the target belongs to another build."""
    found = read_json(state, State, "remove it") if state.is_file() else None
    if found is None or found.recipe != recipe or found.done.target != target.stat().st_size:
        raise InputError(f"{target} exists; remove it to make new passages")
    with exclusive(state):
        pass  # removes the lock of a process that was killed while it wrote this
    state.unlink()
    sync_path(target.parent)
    return found.done


def cut_page(page: dict[str, Any], words: int) -> Iterator[bytes]:
    """Cut a page into passages as JSON lines, with docids `<page>#0`, `<page>#1`, ...; the last passage may be shorter.

    The title line at the start of a page and empty paragraphs are left out. Section and list marks become plain text,
    as in ir_datasets' `kilt`.

    Raises:
        ValueError: for missing fields or fields of a wrong type.
    """
    page_id, title, paragraphs = page["wikipedia_id"], page["wikipedia_title"], page["text"]
    if not isinstance(page_id, str) or len(page_id.split()) != 1:
        raise ValueError(f"wikipedia_id is {page_id!r}; it must be a string without white space")
    if not isinstance(paragraphs, list) or not all(isinstance(text, str) for text in (title, *paragraphs)):
        raise ValueError("wikipedia_title must be a string and text a list of strings")
    body = paragraphs[1:] if paragraphs and paragraphs[0].strip() == title.strip() else paragraphs
    tokens = " ".join(strip_markup(paragraph) for paragraph in body).split()
    for number, start in enumerate(range(0, len(tokens), words)):
        text = " ".join(tokens[start : start + words])
        record = {"id": f"{page_id}#{number}", "contents": text, "title": title, "wikipedia_id": page_id}
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def strip_markup(paragraph: str) -> str:
    """Turn markup into plain text, as ir_datasets does: `Section::::A:B` -> `A B`, `BULLET::::- x` -> `- x`."""
    if paragraph.startswith("Section::::"):
        return paragraph.replace("Section::::", "").replace(":", " ")
    return paragraph.replace("BULLET::::-", "-") if paragraph.startswith("BULLET::::-") else paragraph


def take_passages(source: Path, folder: Path) -> PassageStore:
    """Use an existing passage file (JSON lines or DPR's `psgs_w100.tsv`, plain or gzip) for the collection in `folder`.

    Raises:
        InputError: for a file of another format, or a folder that already has passages.
    """
    kind = ".tsv" if ".tsv" in source.suffixes else ".jsonl" if ".jsonl" in source.suffixes else ""
    suffix = kind + (".gz" if source.suffix == ".gz" else "")
    name = next((file for file in PASSAGE_FILES if kind and file.endswith(suffix)), None)
    if name is None:
        raise InputError(f"--file {source}: the name must end in .tsv or .jsonl, with or without .gz")
    refuse_passages(folder)
    path = take(source, folder / name, link=True)
    try:
        return PassageStore(path)
    except BaseException:
        path.unlink()  # a link or a copy; the user's file stays
        raise


def refuse_passages(folder: Path, building: bool = False) -> None:
    """Raise InputError if a collection already has passages, because only one of two files would be used.

    Args:
        building: allow a target that a killed build had almost finished, because `build_passages` completes it.
    """
    present = [folder / file for file in PASSAGE_FILES if (folder / file).is_file()]
    if present := [path for path in present if not (building and _progress_file(path).is_file())]:
        raise InputError(f"{present[0]} exists; remove it to make new passages")


def _progress_file(target: Path) -> Path:
    return target.with_name(target.name + ".part.json")


def _write_blocks(
    lines: IO[bytes], sink: IO[bytes], done: Progress, words: int, block_pages: int, name: str
) -> Iterator[Progress]:
    """Write passages, and yield the progress after every `block_pages` pages and at the end."""
    source, target, pages, passages = done
    yielded = pages
    try:
        for line in lines:
            source += len(line)
            pages += 1
            for passage in cut_page(orjson.loads(line), words):
                target += sink.write(passage)
                passages += 1
            if pages % block_pages == 0:
                yield Progress(source, target, pages, passages)
                yielded = pages
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name}, line {pages}: not a page of the KILT knowledge source ({type(error).__name__}: {error})"
        ) from error
    except GZIP_FAULTS as error:
        raise InputError(f"{name}: broken gzip after line {pages} ({error})") from error
    if pages > yielded or not pages:
        yield Progress(source, target, pages, passages)


def _read_progress(state: Path, recipe: dict[str, Any], sink: IO[bytes]) -> Progress:
    """Return the progress of an earlier build with the same recipe, or an empty progress."""
    if not state.is_file():
        return Progress()
    if recipe["source"].endswith(".gz"):
        log.warning("%s: reading cannot begin in the middle of a gzip file; starting again", recipe["source"])
        return Progress()
    found = read_json(state, State, "remove it to start again")
    if found.recipe != recipe or sink.tell() < found.done.target:
        partial = state.name.removesuffix(".json")
        log.warning("%s: it was begun from another source, or with another number of words; starting again", partial)
        return Progress()
    log.info("resuming after page %d", found.done.pages)
    return found.done


@contextmanager
def _open_source(source: Path, start: int) -> Iterator[tuple[IO[bytes], Any]]:
    """Open the source from byte `start` on; yield its lines and a function that returns the bytes read so far."""
    with source.open("rb") as raw:
        raw.seek(start)
        if source.suffix == ".gz":
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked, raw.tell  # type: ignore[misc]
        else:
            yield raw, raw.tell
