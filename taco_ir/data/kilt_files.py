"""The files of the KILT benchmark (Petroni et al., NAACL 2021): their addresses and sizes, and how to get them.

They are stored in `data_home()/"kilt"` under KILT's own names, which makes that folder the collection `kilt`. KILT's
TriviaQA files contain only ids; the questions are added from the TriviaQA release (Joshi et al., ACL 2017).
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from taco_ir.core.files import InputError, data_home, writing
from taco_ir.core.tasks import KILT_TASKS, SPLITS, TOPICS, TopicsName, resolve_topics
from taco_ir.data.downloads import GZIP_FAULTS, Report, fetch, take
from taco_ir.data.topics import read_json_lines

TRAIN_TASKS = ("fever", "nq", "hotpotqa", "eli5", "trex", "structured_zeroshot", "aidayago2", "wow", "triviaqa")
DEV_FACTS = {  # task: md5, bytes, records; KILT publishes none for the other files
    "fever": ("ae9a27503d177ba82cdb1e968b1aeac1", 6_174_139, 10_444),
    "aidayago2": ("262c2350c0a331b26cdcc70590f068f2", 21_061_554, 4_784),
    "wned": ("b04e18e85c7f87030f5118c21f1297dc", 12_868_348, 3_396),
    "cweb": ("bb62b9471cdec028abbe91b19030e9ad", 90_228_527, 5_599),
    "trex": ("ccd3c43891f08b2d5d9adf3e6885c8f9", 3_803_558, 5_000),
    "structured_zeroshot": ("b2cb14cb4b00a90352c9ad8317829cfd", 2_266_707, 3_724),
    "nq": ("0bb57ca0b4676ed66005b8788d3a3050", 7_936_566, 2_837),
    "hotpotqa": ("3ebc5eeaa5572ec29451eb4b66c29333", 3_971_321, 5_600),
    "eli5": ("7abac8b2495581d513b0542916178893", 14_149_811, 1_507),
    "wow": ("bf4000198be9d8acbab11a57745a6a8b", 2_418_241, 3_054),
}
TRIVIAQA_MEMBERS = ("qa/wikipedia-train.json", "qa/wikipedia-dev.json", "qa/wikipedia-test-without-answers.json")
TRIVIAQA_ARCHIVE = "triviaqa-rc.tar.gz"
SOURCE_MD5, SOURCE_SIZE, SOURCE_PAGES = "d1dca62aa6ba889d2e842182e3114af5", 37_318_876_722, 5_903_530
SOURCE_FILE = "kilt_knowledgesource.json"


class Addresses(NamedTuple):
    """URLs of the original files."""

    kilt: str = "https://dl.fbaipublicfiles.com/KILT/"
    triviaqa: str = "https://nlp.cs.washington.edu/triviaqa/data/triviaqa-rc.tar.gz"


ORIGINALS = Addresses()


class KiltFile(NamedTuple):
    """A topics file of KILT.

    Attributes:
        name: name of the file in the data home.
        fetched: name of the file to download, which differs for TriviaQA.
        md5, size, records: MD5, bytes and number of records of the file; None if KILT does not publish them.
    """

    name: str
    fetched: str
    md5: str | None = None
    size: int | None = None
    records: int | None = None

    @property
    def path(self) -> Path:
        return kilt_folder() / self.name


def _name_file(task: str, split: str) -> KiltFile:
    suffix = "_without_answers" if split == "test" else ""
    ids = "_id" if task == "triviaqa" else ""
    md5, size, records = DEV_FACTS.get(task, (None, None, None)) if split == "dev" else (None, None, None)
    name, fetched = f"{task}-{split}{suffix}-kilt.jsonl", f"{task}-{split}{ids}{suffix}-kilt.jsonl"
    return KiltFile(name, fetched, md5, size, records)


KILT_FILES = {
    TopicsName(task.name, split): _name_file(task.name, split)
    for task in KILT_TASKS
    for split in SPLITS
    if split != "train" or task.name in TRAIN_TASKS
}


def kilt_folder() -> Path:
    return data_home() / "kilt"


def knowledge_source() -> Path:
    """Return the path of the file with KILT's Wikipedia. It is the path that ir_datasets uses."""
    from ir_datasets.util import home_path

    return Path(home_path()) / "kilt" / SOURCE_FILE


def expand_names(name: str) -> list[TopicsName]:
    """Return the topics that `kilt/nq/dev`, `zsre-dev` or `kilt/all-dev` (every task) means. Raises: InputError."""
    matched = TOPICS.fullmatch(name)
    if matched and matched["task"] == "all":
        return [topics for topics in KILT_FILES if topics.split == matched["split"]]
    return [resolve_topics(name, KILT_FILES)]


def get_topics(
    topics: TopicsName, files: Sequence[Path] = (), addresses: Addresses = ORIGINALS, report: Report | None = None
) -> Path:
    """Get a topics file of KILT and return its path. Without `files`, a file that exists already is kept.

    Args:
        files: local copies (plain or gzip) to use instead of downloading. For TriviaQA, these may be KILT's file of ids
            and the TriviaQA release, or a file that has both ids and questions.

    Raises:
        InputError: if the size or md5 of a file is wrong, or if a TriviaQA id has no question.
    """
    file = KILT_FILES[topics]
    if not files and _is_there(file.path, file.size):
        return file.path
    if topics.task == "triviaqa":
        return _get_triviaqa(file, files, addresses, report)
    if len(files) > 1:
        raise InputError(f"--file names {len(files)} files for {topics}; give one file")
    if files:
        take(files[0], file.path, file.md5, file.size)
    else:
        fetch(addresses.kilt + file.fetched, file.path, file.md5, file.size, report)
    return _require_fields(file.path, ("id", "input"))


def get_knowledge_source(
    file: Path | None = None, addresses: Addresses = ORIGINALS, report: Report | None = None
) -> Path:
    """Get KILT's Wikipedia (37 GB) if it is missing, and return its path. Raises: InputError as `get_topics` does."""
    path = knowledge_source()
    if file is None and _is_there(path, SOURCE_SIZE):
        return path
    if file is not None:
        return take(file, path, SOURCE_MD5, SOURCE_SIZE, link=True)
    return fetch(addresses.kilt + SOURCE_FILE, path, SOURCE_MD5, SOURCE_SIZE, report)


def _is_there(path: Path, size: int | None) -> bool:
    if path.is_file() and size not in (None, found := path.stat().st_size):
        raise InputError(f"{path}: it has {found} bytes, but KILT's file has {size}; remove it and get it again")
    return path.is_file()


def _require_fields(path: Path, keys: tuple[str, ...]) -> Path:
    """Refuse and remove a file that does not begin like a KILT file; KILT publishes no md5 for most of its files."""
    try:
        _, record = next(read_json_lines(path), (0, {}))
        if missing := [key for key in keys if not record.get(key)]:
            raise InputError(f"{path}: its first record has no {' and no '.join(missing)}, so this is not a KILT file")
    except InputError as error:
        path.unlink()
        raise InputError(f"{error}; the file was removed") from error
    return path


def _get_triviaqa(file: KiltFile, files: Sequence[Path], addresses: Addresses, report: Report | None) -> Path:
    sources = file.path.parent / "source"
    ids, archive = sources / file.fetched, sources / TRIVIAQA_ARCHIVE
    for local in files:
        kind = _recognise_triviaqa(local)
        if kind == "joined":
            return _require_fields(take(local, file.path), ("id", "input"))
        take(local, archive if kind == "release" else ids)
    if not ids.is_file():
        fetch(addresses.kilt + file.fetched, ids, report=report)
    _require_fields(ids, ("id",))
    if not archive.is_file():
        fetch(addresses.triviaqa, archive, report=report)
    join_triviaqa(ids, archive, file.path)
    return file.path


def _recognise_triviaqa(path: Path) -> str:
    """Recognise a local file for TriviaQA: `release`, `joined` or `ids`."""
    if not path.is_file():
        raise InputError(f"--file {path}: no such file")
    try:
        if tarfile.is_tarfile(path):
            return "release"
        with path.open("rb") as head:
            packed = head.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as source:
            return "joined" if "input" in orjson.loads(source.readline()) else "ids"
    except (*GZIP_FAULTS, orjson.JSONDecodeError, TypeError) as error:
        raise InputError(
            f"--file {path}: this is neither KILT's TriviaQA file nor {TRIVIAQA_ARCHIVE} ({error})"
        ) from error


def join_triviaqa(ids: Path, archive: Path, target: Path) -> int:
    """Add questions from the TriviaQA release `archive` to the records of `ids`; return the number of records.

    Raises:
        InputError: for an id that is not in the release, or an archive that cannot be read.
    """
    questions = read_questions(archive)
    missing: list[str] = []
    count = 0
    with writing(target, "wb") as sink:
        for _, record in read_json_lines(ids):
            count += 1
            record_id = str(record.get("id"))
            if (question := questions.get(record_id)) is None:
                missing.append(record_id)
            sink.write(orjson.dumps(record | {"input": question}, option=orjson.OPT_APPEND_NEWLINE))
        if missing:
            raise InputError(
                f"{ids}: {len(missing)} of {count} question ids are not in {archive.name}, first {missing[0]!r}"
            )
    return count


def read_questions(archive: Path) -> dict[str, str]:
    """Read the questions, by id, from three Wikipedia files of the TriviaQA release, as KILT's own script does."""
    questions: dict[str, str] = {}
    left = set(TRIVIAQA_MEMBERS)
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix("triviaqa-rc/")
                if name in left and (stream := tar.extractfile(member)):
                    questions |= {item["QuestionId"]: item["Question"] for item in orjson.loads(stream.read())["Data"]}
                    left.discard(name)
                if not left:
                    break
    except (*GZIP_FAULTS, tarfile.TarError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{archive}: not the TriviaQA release ({type(error).__name__}: {error}); remove it and get it again"
        ) from error
    if left:
        raise InputError(
            f"{archive}: it has no {', '.join(sorted(left))}, so it is incomplete or not the TriviaQA release; "
            "remove it and get it again"
        )
    return questions
