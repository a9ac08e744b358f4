"""Random access to the passages in a file: JSON lines or DPR's tab-separated `psgs_w100.tsv`, plain or gzip.

The first use scans the file: it checks and hashes docids and notes line offsets. The result is kept in the data home
under the file's hash, so that any process can start reading at any passage of a large file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import shutil
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import numpy.typing as npt
import orjson

from taco_ir.core.files import CHUNK, InputError, data_home, exclusive, read_json, write_json, writing_folder
from taco_ir.core.hashes import FileFacts, check_files, describe_files, fingerprint, sha256_once
from taco_ir.core.processes import log, with_progress
from taco_ir.core.typed import abbreviate
from taco_ir.core.types import Passage

STEP = 256  # lines between two offsets, so at most this many are skipped to reach a passage
TSV_COLUMNS = ("id", "text", "title", PAGE_COLUMN := "wikipedia_id")  # the last may be missing
COLUMN_NAME = re.compile(r"[A-Za-z_][\w-]*")  # what a header with other names looks like
LAYOUT_VERSION = 4
PLAIN = "passages"  # the file name of a plain copy
UNPACKED_UP_TO = 2 << 30  # bytes of the largest gzip file with a plain copy
BLAKE = partial(hashlib.blake2b, digest_size=8)


@dataclass(frozen=True)
class Layout:
    """The content of layout.json: what the first scan of a passage file found."""

    count: Annotated[int, 1]
    fingerprint: str
    page_in_docid: bool
    has_pages: bool
    files: dict[str, FileFacts]


class PassageStore:
    """The passages of a collection in file order; a passage's row is its position.

    Attributes:
        count: number of passages.
        fingerprint: first 16 hex digits of the SHA-256 of the uncompressed file.
        has_pages: whether passages belong to pages; if not, page-level measures are meaningless.

    Raises:
        InputError: on opening, for a missing file, an unreadable line, or a repeated docid.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such file; it must contain the collection's passages")
        self.path = self._plain = path
        self._packed = path.suffix == ".gz"
        self._stays = False  # stays packed, because no copy can be written
        self._headers = 0  # lines before the first passage
        self._layout = data_home() / "layouts" / fingerprint([LAYOUT_VERSION, path.suffixes, sha256_once(path)])
        if not (self._layout / "layout.json").is_file():
            self._scan_once()
        remedy = f"remove {self._layout}; it is made again"
        facts = read_json(self._layout / "layout.json", Layout, remedy)
        self.count, self.fingerprint, self.has_pages = facts.count, facts.fingerprint, facts.has_pages
        self._page_in_docid = facts.page_in_docid
        check_files(self._layout, facts.files, facts.files, remedy)
        self._unpacked = data_home() / "unpacked" / self._layout.name
        if self._packed and (self._unpacked / "facts.json").is_file():
            self._use_unpacked()

    @property
    def reads_anywhere(self) -> bool:
        """Whether reading can begin at any passage. This is not possible inside a gzip file."""
        return not self._packed

    def unpack(self) -> None:
        """Keep a decompressed copy of a gzip file in the data home, so that any passage can be read at once.

        If the file is very large or no copy can be written, the gzip file is used; this is no error.
        """
        if not self._packed or self._stays or self.path.stat().st_size > UNPACKED_UP_TO:
            return
        try:
            with exclusive(self._unpacked):
                if not (self._unpacked / "facts.json").is_file():
                    with writing_folder(self._unpacked) as folder:
                        with self._open() as source, (folder / PLAIN).open("wb") as sink:
                            shutil.copyfileobj(source, sink, CHUNK)
                        write_json(folder / "facts.json", describe_files(folder, [PLAIN]))
                    log.info("%s: a plain copy for reading single passages is kept in %s", self.path, self._unpacked)
        except (OSError, InputError) as error:
            self._stays = True
            log.info("%s: passages are read from the gzip file, as no plain copy can be kept (%s)", self.path, error)
            return
        self._use_unpacked()

    def _use_unpacked(self) -> None:
        facts = read_json(self._unpacked / "facts.json", dict[str, FileFacts])
        check_files(self._unpacked, facts, [PLAIN], f"remove {self._unpacked}; it is made again")
        self._plain, self._packed = self._unpacked / PLAIN, False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Passage]:
        """Yield the passages in the rows start to stop-1, or to the last row if `stop` is None."""
        stop = self.count if stop is None else min(stop, self.count)
        with self._open() as source:
            columns = self._read_columns(source)
            first = 0
            if not self._packed and start < stop:
                first = start // STEP * STEP
                source.seek(int(self._load_array("offsets")[start // STEP]))
            for row, line in enumerate(islice(source, start - first, stop - first), start):
                yield self._parse(line, columns, row)

    def get(self, docids: Sequence[str]) -> dict[str, Passage]:
        """Read passages by docid. Raises: InputError for an unknown docid."""
        return {passage.docid: passage for passage in self.at(np.unique(self._known_rows(docids)).tolist())}

    def at(self, rows: Iterable[int]) -> Iterator[Passage]:
        """Yield the passages in these rows, which must be ascending. In a plain file, most other lines are not read."""
        offsets = None if self._packed else self._load_array("offsets")
        place = 0
        with self._open() as source:
            columns = self._read_columns(source)
            for row in rows:
                if offsets is not None and row // STEP > place // STEP:
                    source.seek(int(offsets[row // STEP]))
                    place = row // STEP * STEP
                for line in islice(source, row - place, row - place + 1):
                    yield self._parse(line, columns, row)
                place = row + 1

    def rows(self, docids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each docid, int64 [N]; -1 for an unknown docid.

        Docids are compared by 64-bit hashes: the probability that an unknown docid gets a row is count / 2^64.
        """
        digests, order = self._load_array("digests"), self._load_array("order")
        wanted = _digests(docids)
        places = np.minimum(np.searchsorted(digests, wanted), self.count - 1)
        return np.where(digests[places] == wanted, order[places], -1)

    def _known_rows(self, docids: Sequence[str]) -> npt.NDArray[np.int64]:
        rows = self.rows(docids)
        if len(missing := np.flatnonzero(rows < 0)):
            raise InputError(
                f"{self.path}: {len(missing)} of {len(docids)} docids are not in the collection, "
                f"first {docids[missing[0]]!r}; give the collection that they come from"
            )
        return rows

    def missing_docids(self, docids: Iterable[str]) -> list[str]:
        """Return the docids that have no passage."""
        listed = list(docids)
        return [listed[i] for i in np.flatnonzero(self.rows(listed) < 0)]

    def missing_pages(self, pages: Iterable[str]) -> list[str]:
        """Return the pages that have no passage."""
        listed = list(pages)
        known = self._load_array("pages")
        wanted = _digests(listed)
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return [listed[i] for i in np.flatnonzero(known[places] != wanted)]

    def docids_of(self, pages: Iterable[str]) -> dict[str, list[str]]:
        """Read all passages once, and return the docids of each page in file order; empty for an unknown page."""
        found: dict[str, list[str]] = {page: [] for page in pages}
        if found:
            owners = (
                ((docid, page) for docid, page, _, _ in self.read()) if self._page_in_docid else self._read_owners()
            )
            for docid, page in owners:
                if page in found:
                    found[page].append(docid)
        return found

    def page_of(self, docids: Iterable[str]) -> Mapping[str, str]:
        """Return the page of each docid. Raises: InputError for an unknown docid."""
        wanted = list(dict.fromkeys(docids))
        self._known_rows(wanted)
        pages = self.page_of_known(wanted)
        return pages if self._page_in_docid else {docid: pages[docid] for docid in wanted}

    def page_of_known(self, docids: Iterable[str]) -> Mapping[str, str]:
        """Return the page of each docid, faster than `page_of`. All docids must exist; the result may have more."""
        return {docid: docid.rpartition("#")[0] for docid in docids} if self._page_in_docid else self._pages

    @cached_property
    def _pages(self) -> dict[str, str]:
        return dict(self._read_owners())

    def _read_owners(self) -> Iterator[tuple[str, str]]:
        """Yield (docid, page) of every passage in file order, for a file with docids that do not contain the page."""
        with (self._layout / "pages.tsv").open(encoding="utf-8") as source:
            for line in source:
                docid, _, page = line.rstrip("\n").partition("\t")
                yield docid, page

    def _load_array(self, name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self._layout / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array

    def _open(self) -> IO[bytes]:
        return gzip.open(self.path, "rb") if self._packed else self._plain.open("rb")  # type: ignore[return-value]

    def _read_columns(self, source: IO[bytes]) -> dict[str, int]:
        """Read the header of a TSV, up to the first passage; return its columns. JSON lines have no columns.

        If the first line has none of the names and is not a line of words that may be names, it is a passage, and the
        columns are id, text, title and, if there are four, wikipedia_id.

        Raises:
            InputError: for a header that lacks one of these names.
        """
        if source.read(len(BOM_UTF8)) != BOM_UTF8:
            source.seek(0)
        if ".tsv" not in self.path.suffixes:
            return {}
        start, self._headers = source.tell(), 1
        header = source.readline().decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if not set(header) & set(TSV_COLUMNS) and not all(map(COLUMN_NAME.fullmatch, header)):
            source.seek(start)
            self._headers = 0
            header = list(TSV_COLUMNS[: len(header)])
        if missing := [name for name in TSV_COLUMNS[:3] if name not in header]:
            raise InputError(
                f"{self.path}, line 1: its columns are {abbreviate(header)}; they must be id, text, title[, "
                f"wikipedia_id], and {', '.join(missing)} is missing"
            )
        return {name: header.index(name) for name in TSV_COLUMNS if name in header}

    def _line(self, row: int) -> int:
        """Return the line number of a passage."""
        return row + self._headers + 1

    def _parse(self, line: bytes, columns: Mapping[str, int], row: int) -> Passage:
        try:
            return _tsv_passage(line, columns) if columns else _json_passage(line)
        except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
            shown = abbreviate(line.decode("utf-8", "replace").strip())
            raise InputError(
                f"{self.path}, line {self._line(row)}: {shown} is not a passage with id, "
                f"{'text and title' if columns else 'contents and wikipedia_id'} ({type(error).__name__}: {error})"
            ) from error

    def _scan_once(self) -> None:
        """Scan the file, or wait while another process scans it."""
        with exclusive(self._layout):
            if (self._layout / "layout.json").is_file():
                return
            try:
                with writing_folder(self._layout) as folder:
                    self._scan(folder)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise InputError(f"{self.path}: broken gzip ({error})") from error

    def _scan(self, folder: Path) -> None:
        """Read the whole file once; write counts, hashes, offsets, and also pages if docids do not contain them."""
        whole = hashlib.sha256()
        offsets, digests, page_digests = [], bytearray(), bytearray()
        page_in_docid, has_pages, count, last_page = True, False, 0, None
        with self._open() as source, (folder / "pages.tsv").open("w", encoding="utf-8") as pages:
            columns = self._read_columns(source)
            position = source.tell()
            lines = with_progress(source, f"{self.path.name} is checked", "passages")
            for count, line in enumerate(lines, 1):
                passage = self._parse(line, columns, count - 1)
                if passage.docid.split() != [passage.docid] or passage.page.split() != [passage.page]:
                    raise InputError(
                        f"{self.path}, line {self._line(count - 1)}: docid is {passage.docid!r} and page "
                        f"(wikipedia_id) {passage.page!r}; neither may be empty or contain white space"
                    )
                if count % STEP == 1:
                    offsets.append(position)
                position += len(line)
                whole.update(line)
                digests += _digest_bytes(passage.docid)
                if passage.page != last_page:
                    page_digests += _digest_bytes(passage.page)
                    last_page = passage.page
                has_pages = has_pages or passage.docid != passage.page
                page_in_docid = page_in_docid and passage.docid.rpartition("#")[0] == passage.page
                pages.write(f"{passage.docid}\t{passage.page}\n")
        if not count:
            raise InputError(f"{self.path}: there are no passages in it")
        if page_in_docid:
            (folder / "pages.tsv").unlink()
        hashes = np.frombuffer(bytes(digests), dtype="<u8")
        order = np.argsort(hashes, kind="stable")
        self._refuse_duplicates(hashes[order], order)
        np.save(folder / "digests.npy", hashes[order])
        np.save(folder / "order.npy", order.astype(np.int64))
        np.save(folder / "pages.npy", np.unique(np.frombuffer(bytes(page_digests), dtype="<u8")))
        np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
        facts = {
            "count": count,
            "fingerprint": whole.hexdigest()[:16],
            "page_in_docid": page_in_docid,
            "has_pages": has_pages,
        }
        files = describe_files(folder, sorted(path.name for path in folder.iterdir()))
        write_json(folder / "layout.json", facts | {"files": files})

    def _refuse_duplicates(self, hashes: npt.NDArray[np.uint64], order: npt.NDArray[np.int64]) -> None:
        equal = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not len(equal):
            return
        suspects = set(order[equal].tolist()) | set(order[equal + 1].tolist())
        lines: dict[str, int] = {}
        with self._open() as source:
            columns = self._read_columns(source)
            for row, line in enumerate(source):
                if row in suspects:
                    docid, place = self._parse(line, columns, row).docid, self._line(row)
                    if docid in lines:
                        raise InputError(
                            f"{self.path}, line {place}: docid {docid!r} is already on line {lines[docid]}; "
                            "docids must be unique"
                        )
                    lines[docid] = place


def _digest_bytes(name: str) -> bytes:
    return BLAKE(name.encode()).digest()


def _digests(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join([BLAKE(name.encode()).digest() for name in names]), dtype="<u8")


def _tsv_passage(line: bytes, columns: Mapping[str, int]) -> Passage:
    """Parse a line of DPR's passages. Without a wikipedia_id, the title is the page."""
    (cells,) = csv.reader([line.decode("utf-8").rstrip("\r\n")], delimiter="\t")
    docid, text, title = (cells[columns[name]] for name in TSV_COLUMNS[:3])
    page = cells[columns[PAGE_COLUMN]] if PAGE_COLUMN in columns else "_".join(title.split()) or docid
    return Passage(docid, page, title, text)


def _json_passage(line: bytes) -> Passage:
    record = orjson.loads(line)
    docid, page, title, text = record["id"], record["wikipedia_id"], record.get("title") or "", record["contents"]
    if not isinstance(page, str | int) or not all(isinstance(each, str) for each in (docid, title, text)):
        raise TypeError("id, wikipedia_id, title and contents must be strings")
    return Passage(docid, str(page), title, text)
