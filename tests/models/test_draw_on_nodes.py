"""Positions drawn from a density on nodes: the outermost cells have no edge on which positions pile up."""

import pytest
import torch

from gazekit.models.saliency_readout import draw_on_nodes


def test_a_flat_density_is_flat_up_to_the_edges():
    n, width, height = 60_000, 81, 41
    nodes = torch.zeros(n, 3, 6)
    xy = draw_on_nodes(nodes, (width, height), torch.Generator().manual_seed(0))
    assert (xy >= 0).all()
    assert (xy < torch.tensor([width, height])).all()
    for values, side in zip(xy.unbind(-1), (width, height), strict=True):
        # Eight strips of equal width between the middles of the outermost pixels; SE of a share is 0.14 %.
        share = torch.histc(values, 8, 0.5, side - 0.5) / n
        assert share.sum() == pytest.approx(1.0)
        assert (share - 1 / 8).abs().max() < 0.006
        assert len(values.unique()) > 0.9 * len(values.double().unique())
        assert (values == values.min()).float().mean() < 1e-3
        assert (values == values.max()).float().mean() < 1e-3


def test_a_node_is_hit_around_itself():
    nodes = torch.full((4000, 5, 4), -torch.inf)
    nodes[:2000, 2, 1] = nodes[2000:, 0, 3] = 0.0
    xy = draw_on_nodes(nodes, (31, 41), torch.Generator().manual_seed(0))
    inner, corner = xy[:2000], xy[2000:]
    # Nodes are 10 px apart, from 0.5 to 30.5 and to 40.5.
    assert inner.mean(0) == pytest.approx([10.5, 20.5], abs=0.3)
    assert (inner - torch.tensor([10.5, 20.5])).abs().max() <= 5.0
    assert (corner[:, 0] >= 25.5).all()
    assert (corner[:, 1] <= 5.5).all()
    # The quarter of a cell: 25.5 to 30.5 px, 0.5 to 5.5 px.
    assert corner.mean(0) == pytest.approx([28.0, 3.0], abs=0.15)
