"""What a user waits for before the first step, and the default run."""

from __future__ import annotations

import sys
import tempfile

from benchmarks.processes_apart import HAPO, Numbers, whole


def importing(package: str, _: bool) -> Numbers:
    """Of ``import package``, in a new process."""
    return whole([sys.executable, "-c", f"import {package}"])


def shown_settings(_: bool) -> Numbers:
    """Of ``hapo train --cfg job``."""
    return whole([*HAPO, "train", "--cfg", "job"])


def default_run(quick: bool) -> Numbers:
    """Of ``hapo train``, evaluations, records and export included; its base policy is made before, once."""
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            return whole([*HAPO, "train", "debug=fast", f"hydra.run.dir={folder}/run"])
        whole([*HAPO, "pretrain", f"hydra.run.dir={folder}/pretrain"])
        return whole([*HAPO, "train", f"hydra.run.dir={folder}/run"])
