"""CONTRIBUTING's example is followed to the letter."""

import re
from pathlib import Path

import torch
from omegaconf import OmegaConf

from hapo_lit import gates
from hapo_lit.protocols import Gate

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[1]


def test_a_new_gate_is_one_class_and_one_file():
    code, config = block("python"), OmegaConf.create(block("yaml"))
    assert len((code + block("yaml")).splitlines()) < 30
    names = dict(vars(gates))
    exec(code, names)
    target = config.pop("_target_")
    assert target == "hapo_lit.gates.CoinGate"
    gate = names[target.rpartition(".")[2]](**config)
    assert isinstance(gate, Gate)
    decision = gate(torch.arange(2000), torch.zeros(2000, 4))
    assert float(decision.open.float().mean()) == config.share
