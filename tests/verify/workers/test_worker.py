"""What a worker has, and what it may not do."""

import os
import signal
import subprocess
import sys

from support.comparers import Limited, Speaking
from support.pools import GOOD, codes

from hapo_lit.verify.workers.messages import Code


def test_a_worker_has_its_limits_and_nothing_of_the_parent(make):
    with open(os.devnull) as nothing:
        os.set_inheritable(nothing.fileno(), True)
        pool = make(Speaking(preload=("sympy",)), memory_mib=1500)
        state = {
            "ground types": "python",
            "address space": "1500",
            "core": "(0, 0)",
            "file size": "(0, 0)",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "interrupt": str(signal.SIG_IGN),
            "torch": "False",
        }
        assert codes(pool, *state.items()) == [Code.EQUAL] * len(state)
        files = pool.compare([("files", str(count)) for count in range(10)])
    assert [outcome.code for outcome in files].index(Code.EQUAL) <= 6  # 0, 1, 2, null, the pipe, and the listing's own


def test_a_worker_has_no_more_memory_than_the_system_allows(make):
    assert codes(make(Limited(), memory_mib=2048), ("address space", "900")) == [Code.EQUAL]


def test_a_worker_can_write_no_file(make, tmp_path):
    assert codes(make(), (f"{tmp_path}/written", "1"), GOOD) == [Code.UNPARSABLE, Code.EQUAL]
    assert (tmp_path / "written").read_bytes() == b""
    with open(tmp_path / "errors", "w") as errors:
        kept = os.dup(2)
        os.dup2(errors.fileno(), 2)
        try:
            assert codes(make(), ("1", "print")) == [Code.NOT_EQUAL]  # and printing is no error
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    assert (tmp_path / "errors").read_text() == ""


def test_importing_the_pool_is_cheap():
    code = (
        "import sys, hapo_lit.verify.workers.pool; print({'torch', 'sympy', 'numpy', 'math_verify'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "set()\n"
