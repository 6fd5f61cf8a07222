"""Batch norms of a frozen network folded into the convolutions before them: the same function with fewer passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # timm's batch norms hold their activation function and are no part of torch.nn.
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> int:
    """Fold, in place, each batch norm into the convolution whose output it alone takes.

    In evaluation mode a batch norm scales and shifts channels by constants, which a convolution's weights and bias can
    hold as well; results differ by rounding. The network must not be trained afterwards.

    Args:
        network: In evaluation mode, with its weights loaded.

    Returns:
        Number of batch norms that are gone; 0 for a network whose forward pass cannot be traced, which stays as it is.

    """
    assert not network.training
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return 0
    try:
        nodes = [node for node in _Tracer().trace(network).nodes if node.op == "call_module"]
    except Exception:  # whatever a forward pass does with what is no tensor yet
        return 0
    calls = [str(node.target) for node in nodes]
    folded = 0
    for node in nodes:
        before: Any = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, conv = (network.get_submodule(str(n.target)) for n in (node, before))
        if not (isinstance(norm, _BatchNorm) and isinstance(conv, nn.Conv2d) and norm.track_running_stats):
            continue
        # A module that is called twice serves others as well.
        if calls.count(str(node.target)) > 1 or calls.count(str(before.target)) > 1:
            continue
        network.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
        act = getattr(norm, "act", None)
        network.set_submodule(str(node.target), act if isinstance(act, nn.Module) else nn.Identity())
        folded += 1
    return folded
