"""Layouts of weights files, read and refused; `python tests/model/layout_cases.py` writes their table for the docs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

StateDict = dict[str, Tensor]
FC = ("fc.weight", "fc.bias")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- layouts: begin -->\n", "<!-- layouts: end -->\n"


@dataclass(frozen=True)
class Layout:
    """How a trainer saves a network, and what becomes of it."""

    origin: str
    keys: str
    """As the page shows them."""
    saved: Callable[[StateDict], object]
    name: str = "net.pth"
    said: str = ""
    """In the notes, or in the error."""
    outcome: str = ""
    """On the page."""


def under(prefix: str, state: StateDict) -> StateDict:
    return {prefix + key: tensor for key, tensor in state.items()}


def trunk(state: StateDict) -> StateDict:
    return {key: tensor for key, tensor in state.items() if key not in FC}


def head(name: str, state: StateDict) -> StateDict:
    return {f"{name}.weight": state["fc.weight"], f"{name}.bias": state["fc.bias"]}


def without(start: str, state: StateDict) -> StateDict:
    return {key: tensor for key, tensor in state.items() if not key.startswith(start)}


def in_vissl(state: StateDict) -> dict[str, object]:
    return {"classy_state_dict": {"base_model": {"model": {"trunk": state}}}}


def many(*parts: StateDict) -> StateDict:
    return {key: tensor for part in parts for key, tensor in part.items()}


EXTRA = {"criterion.weight": torch.ones(10), "train_acc.total": torch.zeros(()), "conv1.total_ops": torch.zeros(1)}
PROTOTYPES = {"projection_head.0.weight": torch.zeros(4, 64), "prototypes.weight": torch.zeros(9, 4)}
QUEUE = {"queue": torch.zeros(64, 4), "queue_ptr": torch.zeros(1)}

ACCEPTED = [
    Layout("torchvision, timm", "conv1 bn1 layer1.0.conv1 fc", lambda s: s),
    Layout(
        "kuangliu",
        "net: module.conv1 shortcut linear",
        lambda s: {"net": under("module.", many(trunk(s), head("linear", s))), "acc": 95.0, "epoch": 9},
    ),
    Layout(
        "Lightning",
        "state_dict: model.conv1 criterion.weight",
        lambda s: {"state_dict": many(under("model.", s), EXTRA)},
        "a.ckpt",
        "criterion.weight",
        outcome="; `criterion.weight` is left out, with a note",
    ),
    Layout(
        "Lightning, another prefix",
        "state_dict: net.resnet.conv1",
        lambda s: {"state_dict": under("net.resnet.", s)},
        "a.ckpt",
    ),
    Layout(
        "thop's counts",
        "conv1 total_params",
        lambda s: many(s, {"total_params": torch.zeros(1)}),
        said="total_params",
        outcome="; they are left out, with a note",
    ),
    Layout("torch.compile in DataParallel", "module._orig_mod.conv1", lambda s: under("module._orig_mod.", s)),
    Layout(
        "averaged",
        "module.conv1 n_averaged",
        lambda s: many(under("module.", s), {"n_averaged": torch.tensor(3)}),
        outcome="; averaged weights first",
    ),
    Layout("distillation", "student.conv1", lambda s: under("student.", s)),
    Layout("wrapped by a class", "_model.backbone.conv1", lambda s: under("_model.backbone.", s)),
    Layout(
        "encoder and classifier",
        "encoder.conv1 classifier",
        lambda s: many(under("encoder.", trunk(s)), head("classifier", s)),
    ),
    Layout(
        "mmpretrain",
        "state_dict: backbone.conv1 head.fc",
        lambda s: {"state_dict": many(under("backbone.", trunk(s)), head("head.fc", s)), "meta": {}},
    ),
    Layout("head after dropout", "conv1 fc.1", lambda s: many(trunk(s), head("fc.1", s))),
    Layout(
        ".pth.tar",
        "state_dict: module.conv1",
        lambda s: {"state_dict": under("module.", s), "best_acc1": 70.0},
        "model_best.pth.tar",
    ),
    Layout(".bin", "conv1 fc", lambda s: s, "pytorch_model.bin"),
    Layout(
        "VISSL with a linear head",
        "classy_state_dict: _feature_blocks.conv1 fc",
        lambda s: in_vissl(under("_feature_blocks.", s)),
    ),
]
NO_CLASSIFIER = r"has no classifier: fc\.weight is missing; .*--head-from FILE"
REFUSED = [
    Layout(
        "MoCo",
        "encoder_q.conv1 encoder_k.conv1 queue",
        lambda s: {"state_dict": many(under("module.encoder_q.", s), under("module.encoder_k.", s), QUEUE)},
        said=NO_CLASSIFIER,
        outcome="has no classifier; `--head-from FILE`",
    ),
    Layout(
        "DINO, the backbone",
        "conv1 without fc",
        trunk,
        said=NO_CLASSIFIER,
        outcome="has no classifier; `--head-from FILE`",
    ),
    Layout(
        "SwAV",
        "conv1 projection_head prototypes",
        lambda s: under("module.", many(trunk(s), PROTOTYPES)),
        said=NO_CLASSIFIER,
        outcome="has no classifier; `--head-from FILE`",
    ),
    Layout(
        "VISSL, the trunk",
        "_feature_blocks.conv1 without fc",
        lambda s: in_vissl(under("_feature_blocks.", trunk(s))),
        said=NO_CLASSIFIER,
        outcome="has no classifier; `--head-from FILE`",
    ),
    Layout(
        "two networks",
        "net_a.conv1 net_b.conv1",
        lambda s: many(under("net_a.", s), under("net_b.", s)),
        said="holds several networks",
        outcome="holds several networks",
    ),
    Layout(
        "normalisation inside",
        "0.mean 0.std 1.conv1",
        lambda s: many(under("1.", s), {"0.mean": torch.zeros(3), "0.std": torch.ones(3)}),
        said=r"has 0\.mean, 0\.std beside the network",
        outcome="what stands beside the network may change its scores",
    ),
    Layout(
        "no first convolution",
        "bn1 layer1.0 fc",
        lambda s: without("conv1.weight", s),
        said=r"conv1\.weight is missing",
        outcome="`conv1.weight` is missing",
    ),
    Layout(
        "no stages",
        "conv1 bn1 layer2 fc",
        lambda s: without("layer1", s),
        said="layer1.* is missing",
        outcome="`layer1.0` is missing",
    ),
    Layout(
        "batch norm folded",
        "conv1.bias",
        lambda s: many(s, {"conv1.bias": torch.zeros(16)}),
        said="biases",
        outcome="convolutions have biases",
    ),
    Layout(
        "a head with batch norm",
        "fc.0 fc.1",
        lambda s: many(trunk(s), {"fc.0.weight": torch.ones(64), "fc.1.weight": s["fc.weight"]}),
        said="no linear layer",
        outcome="the classifier is no linear layer",
    ),
]


def table() -> str:
    """Every layout that the tests have, as the page shows it."""
    lines = ["| layout | keys | |", "|---|---|---|"]
    lines += [f"| {case.origin} | `{case.keys}` | read{case.outcome} |" for case in ACCEPTED]
    lines += [f"| {case.origin} | `{case.keys}` | refused: {case.outcome} |" for case in REFUSED]
    return "\n".join(lines) + "\n"


def updated(page: str) -> str:
    """The page with the table between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    sys.exit(0 if PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8") else 1)
