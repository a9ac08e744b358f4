"""Files of query texts and of judgments, in the formats of BEIR, MS MARCO and TREC."""

import gzip
from pathlib import Path

import pytest

from taco_ir.core.files import InputError
from taco_ir.data.query_files import read_qrels, read_query_texts

TREC = """<top>
<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations.
</top>

<top>
<num> Number: 302 </num>
<title>
 Poliomyelitis and
 post-polio </title>
</top>
"""


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ('{"_id": 7, "text": " who "}\n\n{"_id": "b", "text": "what"}\n', {"7": "who", "b": "what"}),
        ("1\twho was it\r\n2\twhat\t\r\n", {"1": "who was it", "2": "what"}),
        (TREC, {"301": "International Organized Crime", "302": "Poliomyelitis and post-polio"}),
    ],
)
def test_formats_are_told_apart_by_their_first_line(text: str, queries: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "queries"
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode())):
        path.write_bytes(content)
        assert read_query_texts(path) == queries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no queries; BEIR's JSON lines .* are read"),
        ("who wrote it\n", "line 1: 'who wrote it' is not a query; BEIR's JSON lines"),
        ("1\twho\n2 what\n", "line 2: '2 what' has no tab; `id<TAB>text` is needed"),
        ("1\twho\n2\twhat\t1\n", "line 2: '2.*what.*1' has more than two columns; `id<TAB>text` is needed"),
        ("1\twho\n1\twhat\n", "line 2: query id '1' appears twice"),
        ("1\t \n", "line 1: query '1' has text ' .*'; both must be non-empty"),
        ('{"_id": 1.5, "text": "who"}\n', "line 1: .* is not a query with _id and text"),
        ("<top>\n<num> 1\n<title> who\n", "line 1: this <top> has no </top>; the file is cut short"),
        ("<top>\n<title> who\n</top>\n", "line 1: query '' has text 'who'; both must be non-empty"),
    ],
)
def test_a_mistake_in_queries_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "queries"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_query_texts(path)


def test_judgments_keep_their_grades(tmp_path: Path) -> None:
    """Also those of 0 and below, and of the two layouts."""
    graded = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}
    path = tmp_path / "qrels"
    rows = [(qid, docid, grade) for qid, grades in graded.items() for docid, grade in grades.items()]
    path.write_text("".join(f"{qid} 0 {docid}  {grade}\n" for qid, docid, grade in rows))
    assert read_qrels(path) == graded
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    assert read_qrels(path) == graded
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_qrels(path) == graded
    with pytest.raises(InputError, match="broken gzip"):
        path.write_bytes(path.read_bytes()[:-9])
        read_qrels(path)


def test_a_file_without_judgments_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "qrels"
    path.write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(InputError, match="no judgments; each line is `qid iteration docid grade`"):
        read_qrels(path)
