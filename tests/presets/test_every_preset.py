"""Every preset has a test beside its source's formula, and a line in docs/presets.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.configs import CONF, SHIPPED

TESTS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_with*.py"))
PAGE = (CONF.parent / "docs" / "presets.md").read_text()


@pytest.mark.parametrize("preset", SHIPPED)
def test_a_preset_is_compared_with_its_formula_and_described(preset):
    assert f'"{preset}"' in TESTS
    short = preset.replace("qwen_math_numina_7b", "_7b")
    assert re.search(rf"^\| [^|]*`{short}`", PAGE, re.MULTILINE)
