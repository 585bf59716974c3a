"""Text rows: what is read, what is set aside, and that no other row suffers."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gru4rec.sessions.text import parse


def rows(text: bytes, columns: int = 3, wanted: tuple[int, ...] = (0, 1, 2), separator: str = ",") -> list[tuple]:
    found = parse(text, separator, columns, list(wanted))
    return list(zip(*(field.to_pylist() for field in found.fields), strict=True))


def test_takes_the_wanted_columns_in_their_order():
    assert rows(b"1,a,x\n2,b,y\n", wanted=(2, 0)) == [(b"x", b"1"), (b"y", b"2")]


@pytest.mark.parametrize("text", [b"1,a,x\n2,b,y\n", b"1,a,x\n2,b,y", b"1,a,x\r\n2,b,y\r\n", b"\n1,a,x\n\n2,b,y\n\r\n"])
def test_line_ends_and_blank_lines_are_no_content(text):
    found = parse(text, ",", 3, [0, 1, 2])
    assert [field.to_pylist() for field in found.fields] == [[b"1", b"2"], [b"a", b"b"], [b"x", b"y"]]
    assert found.rows == 2
    assert not found.bad


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,a", "2 columns instead of 3"),
        (b"1,a,x,y", "4 columns instead of 3"),
        (b"1,\0,x", "a NUL byte"),
        (b"1,a\rb,x", "a carriage return inside the row"),
        (b'1,"a,x', "2 columns instead of 3"),
        (b'1,"a"b,x', "quotes that do not match (',' expected after '\"')"),
    ],
)
def test_one_bad_line_spoils_no_other(line, reason):
    found = parse(b"0,a,x\n" + line + b"\n2,c,z\n", ",", 3, [0])
    assert found.fields[0].to_pylist() == [b"0", b"2"]
    assert found.bad in ({1: reason}, {1: "quotes that do not match (unexpected end of data)"})
    assert found.numbers.tolist() == [0, 2]
    assert found.starts.tolist() == [0, 7 + len(line)]
    assert found.rows == 3


def test_quotes_hold_the_separator_and_other_rows_keep_their_order():
    text = b'1,a,x\n2,"b,""c""",y\n3,d,z\n"4",e,"w"\n'
    assert rows(text) == [(b"1", b"a", b"x"), (b"2", b'b,"c"', b"y"), (b"3", b"d", b"z"), (b"4", b"e", b"w")]


def test_every_separator_that_may_be_chosen():
    for separator in map(chr, range(1, 128)):
        if separator in '"\r\n':
            continue
        a, b, c = "123" if separator.isalpha() else "abc"
        text = f'{a}|{b}|{c}\n{b}|"{a}|"|{c}\n{c}|{a}|\n'.replace("|", separator)
        expected = [(a, b, c), (b, a + separator, c), (c, a, "")]
        assert rows(text.encode(), separator=separator) == [tuple(v.encode() for v in row) for row in expected]


def test_bytes_that_are_no_text_are_kept_as_they_are():
    assert rows(b'1,\xff\xfe,x\n2,"\xff,",x\n') == [(b"1", b"\xff\xfe", b"x"), (b"2", b"\xff,", b"x")]


def test_a_quoted_field_of_any_length():
    """The csv module refuses more than 131,072 characters unless told otherwise; its limit stays what it was."""
    before = csv.field_size_limit()
    long = b"y" * 200_000
    assert rows(b'1,"' + long + b'",x\n2,b,y\n') == [(b"1", long, b"x"), (b"2", b"b", b"y")]
    assert csv.field_size_limit() == before


def test_a_quote_left_open_ends_with_its_line():
    found = parse(b'1,"2,3\n4,5,6\n"7,8,9\n"\n', ",", 3, [0])
    assert found.fields[0].to_pylist() == [b"4"]
    assert sorted(found.bad) == [0, 2, 3]
    assert found.rows == 4


@given(st.binary(max_size=200))
def test_any_bytes_every_line_is_a_row_blank_or_bad(text):
    found = parse(text, ",", 2, [0, 1])
    assert len(found.numbers) + len(found.bad) == found.rows
    lines = text.split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    assert found.rows == sum(line not in (b"", b"\r") for line in lines)
    assert len(found.spans) == len(lines)


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8)


@given(st.lists(st.tuples(FIELD, FIELD, FIELD).filter(any), max_size=20))
def test_reads_what_a_csv_writer_wrote(table):
    out = io.StringIO()
    csv.writer(out).writerows(table)
    assert rows(out.getvalue().encode()) == [tuple(value.encode() for value in row) for row in table]
