"""The dump reader: what mysqldump and Sequel Ace write comes out as it went in, and what it cannot read is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmarket.errors import BadInput, NotFound
from bigmarket.importing import dump
from bigmarket.importing.dump import DumpRow, read_dump
from reference_dumps import installation, literal, mysqldump, sequel_ace

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def read(folder: Path, text: str | bytes, name: str = "market.sql") -> list[DumpRow]:
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(raw)
    return list(read_dump(folder / name, wanted=lambda table: not table.startswith("other")))


def rows(folder: Path, text: str | bytes) -> list[dict[str, str | None]]:
    return [row.values for row in read(folder, text) if row.values is not None]


def test_rows_come_with_their_database_table_and_line(tmp_path: Path) -> None:
    found = read(tmp_path, "USE `one`;\n\nINSERT INTO `t` (`a`,`b`) VALUES\n (1,'x'),\n (-2.5,NULL);\n")
    assert found == [
        DumpRow("one", "t", {"a": "1", "b": "x"}, 4),
        DumpRow("one", "t", {"a": "-2.5", "b": None}, 5),
    ]


def test_without_a_use_the_database_is_called_as_the_file(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "INSERT INTO t (a) VALUES (1)", name="big_market_01.sql")
    assert row.database == "big_market_01"


def test_a_table_can_be_named_with_its_database(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "INSERT IGNORE INTO `two`.`t` (`a`) VALUE (TRUE);")
    assert (row.database, row.table, row.values) == ("two", "t", {"a": "1"})


def test_columns_come_from_the_definition_when_insert_names_none(tmp_path: Path) -> None:
    text = """CREATE TABLE IF NOT EXISTS `t` (
      `id` int(11) DEFAULT '0' COMMENT 'a, (b); c', `key` enum('a,b','c)') NOT NULL,
      plain decimal(6,4), PRIMARY KEY (`id`,`key`), KEY `k` (`key`), CONSTRAINT `c` CHECK (`id` > 0)
    ) ENGINE=InnoDB COMMENT='x;y';
    REPLACE INTO `t` VALUES (1,'a,b',0.5),(2,'c)',NULL);"""
    assert rows(tmp_path, text) == [
        {"id": "1", "key": "a,b", "plain": "0.5"},
        {"id": "2", "key": "c)", "plain": None},
    ]


def test_an_empty_table_is_known_to_exist(tmp_path: Path) -> None:
    assert read(tmp_path, "USE x; CREATE TABLE `t` (`id` int);") == [DumpRow("x", "t", None, 1)]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r"'a\'b'", "a'b"),
        ("'a''b'", "a'b"),
        (r"'\\n\n\t\0\%\_\q'", "\\n\n\t\0\\%\\_q"),
        ('"say ""hi"" it\'s"', 'say "hi" it\'s'),
        ("_binary 'x'", "x"),
        ("_utf8mb4'x'", "x"),
        ("N'x'", "x"),
        ("0x4142", "AB"),
        ("x'4142'", "AB"),
        ("b'101'", "5"),
        ("1.5e3", "1.5e3"),
        ("'-- no; comment /* here'", "-- no; comment /* here"),
        ("'测试'", "测试"),
        ("''", ""),
    ],
)
def test_literals(tmp_path: Path, written: str, value: str) -> None:
    assert rows(tmp_path, f"INSERT INTO t (a, b) VALUES ({written}, 1);") == [{"a": value, "b": "1"}]


@given(values=st.lists(st.one_of(st.none(), TEXTS, st.integers()), min_size=1, max_size=6), chunk=st.integers(1, 40))
def test_any_value_comes_back_wherever_the_pieces_of_the_file_end(
    tmp_path_factory: pytest.TempPathFactory, values: list[str | int | None], chunk: int
) -> None:
    columns = [f"c{n}" for n in range(len(values))]
    text = f"INSERT INTO `t` ({', '.join(columns)}) VALUES ({','.join(map(literal, values))});"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dump, "CHUNK_CHARACTERS", chunk)
        (found,) = rows(tmp_path_factory.mktemp("dump"), text)
    assert list(found.values()) == [None if value is None else str(value) for value in values]


def test_everything_else_is_passed_over(tmp_path: Path) -> None:
    text = """-- a comment; with a semicolon
    # INSERT INTO t (a) VALUES (1);
    /*!40101 SET NAMES utf8 */; /* INSERT INTO t (a) VALUES (2); */
    SET @x = 'a;b'; LOCK TABLES `t` WRITE; DROP TABLE IF EXISTS `t`;
    INSERT INTO `other` SELECT * FROM `t`; INSERT INTO `other_too` VALUES (func(1), DEFAULT);
    DELIMITER ;;
    CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW BEGIN INSERT INTO t (a) VALUES (3); END;;
    DELIMITER ;
    INSERT INTO t (a) VALUES (4) ON DUPLICATE KEY UPDATE a = 'x;y';
    UNLOCK TABLES;"""
    assert rows(tmp_path, text) == [{"a": "4"}]


def test_a_packed_dump_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.sql.gz").write_bytes(gzip.compress(b"INSERT INTO t (a) VALUES (1);"))
    (row,) = read_dump(tmp_path / "x.sql.gz", wanted=lambda _: True)
    assert (row.database, row.values) == ("x", {"a": "1"})


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("\nINSERT INTO t VALUES (1);", 2, "does not name its columns"),
        ("INSERT INTO t (a)\nVALUES (1,\n2);", 3, "2 values for 1 columns"),
        ("INSERT INTO t (a) VALUES (NOW());", 1, "`NOW` where a value"),
        ("INSERT INTO t (a) VALUES ('x\n\n", 1, "without an end"),
        ("INSERT INTO t (a) VALUES (1", 1, "behind a value"),
        ("INSERT INTO t (a) SELECT 1;", 1, "`SELECT` where VALUES"),
        ("INSERT INTO t (a) VALUES (1) , ;", 1, "where `(` was expected"),
        ("INSERT INTO t (a) VALUES (0xff);", 1, "binary"),
        ("CREATE TABLE `t` (`a` int", 1, "no end"),
        ("/* for ever", 1, "without an end"),
    ],
)
def test_what_cannot_be_read_is_told_with_file_and_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(BadInput, match=f"market.sql:{line}: ") as refused:
        read(tmp_path, text)
    assert what in str(refused.value)


def test_text_that_is_not_utf8_matters_only_where_it_is_wanted(tmp_path: Path) -> None:
    assert rows(tmp_path, b"INSERT INTO other (a) VALUES ('\xe9');INSERT INTO t (a) VALUES (1);") == [{"a": "1"}]
    with pytest.raises(BadInput, match="not UTF-8"):
        read(tmp_path, b"INSERT INTO t (a) VALUES ('\xe9');")


def test_a_missing_file_and_a_broken_archive_are_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        list(read_dump(tmp_path / "nowhere.sql", wanted=lambda _: True))
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"INSERT INTO t (a) VALUES (1);")[:-9])
    with pytest.raises(BadInput, match="gzip"):
        list(read_dump(tmp_path / "x.gz", wanted=lambda _: True))


@pytest.mark.parametrize("up", [False, True])
def test_both_kinds_of_dump_say_the_same(tmp_path: Path, *, up: bool) -> None:
    for database, tables in installation(up=up).items():
        named = rows(tmp_path, sequel_ace(database, tables, up=up))
        assert named == rows(tmp_path, mysqldump(tables, up=up))
        assert len(named) == sum(len(content) for content in tables.values())
