"""What messages are made of."""

import pytest

from hapo_lit.errors import cut, nearest, one_line


def test_a_long_text_loses_its_middle():
    assert cut("0123456789", 10) == "0123456789"
    assert cut("0123456789x", 4) == "01 ... 9x"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" two\nlines\n", r"two\nlines"),
        ("\x1b[31mred\udcff", r"\x1b[31mred\udcff"),
        ("ünï, 'quoted' \\frac", "ünï, 'quoted' \\frac"),
        ("", ""),
    ],
)
def test_one_line_has_no_line_ends_and_no_controls(text, line):
    assert one_line(text) == line
    assert one_line("x" * 1000, 10) == "xxxxx ... xxxxx"


def test_only_a_near_name_is_proposed():
    assert nearest("grop_size", ["group_size", "steps"]) == "; did you mean 'group_size'?"
    assert nearest("nothing", ["group_size", "steps"]) == ""
