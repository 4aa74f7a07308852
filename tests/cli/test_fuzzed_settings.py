"""Whatever is set is answered: by a whole run, or by one line that names the key.

``make test-all`` tries 250 settings; ``pytest -n 0 --all tests/cli/test_fuzzed_settings.py`` these alone.
"""

from __future__ import annotations

import pytest
from support.commands import hapo
from support.fuzzed_settings import SHORT, drawn_case, wrong_answer
from support.once import few_of

SEED, COUNT, FEW = 29, 250, 5


@pytest.mark.parametrize("number", few_of(range(COUNT), range(FEW)))
def test_a_setting_is_answered_by_a_run_or_by_one_line_that_names_it(tmp_path, number):
    case = drawn_case(SEED, number)
    done = hapo(tmp_path, "train", *SHORT, *case, check=False)
    assert wrong_answer(case, done.returncode, done.stderr, tmp_path) is None, case
