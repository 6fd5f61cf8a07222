"""A toy task with known losses, and the search written as published: one image at a time, with a graph."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from gazekit.backbones.foveation import Foveation
from gazekit.models.fovea_search import FoveaObjective
from gazekit.models.fovea_tasks import FoveaTask

SIDE = 64
WIDTH = 0.2  # of the published fovea
SIGMA_PX = (SIDE - 1) / 2.0 * math.sqrt(WIDTH / 2.0)


class ToyTask(FoveaTask):
    """8 x 8 average pool, a fixed random projection, and one minus the cosine with a fixed random target."""

    def __init__(self):
        super().__init__(SIDE)
        self.projection = torch.from_numpy(np.random.RandomState(0).standard_normal((192, 16))).float()
        self.wanted = torch.from_numpy(np.random.RandomState(1).standard_normal((1, 16))).float()

    def target(self, image):
        return self.wanted.expand(len(image), -1)

    def loss(self, seen, target):
        return 1.0 - F.cosine_similarity(F.avg_pool2d(seen, 8).flatten(1) @ self.projection, target, dim=-1)


def toy_image():
    i, j = torch.arange(SIDE).float()[:, None], torch.arange(SIDE).float()[None]
    return torch.stack([0.5 + 0.5 * torch.sin(0.05 * c * i) * torch.cos(0.07 * c * j) for c in (1, 2, 3)])[None]


def toy_objective(retention=0.0, images=None, goal_of_path=None, **kwargs):
    images = toy_image() if images is None else images
    goals = torch.arange(len(images)) if goal_of_path is None else torch.tensor(goal_of_path)
    task = ToyTask()
    foveation = Foveation((SIGMA_PX, SIGMA_PX), 5.0, 21, retention)
    return FoveaObjective(task.loss, foveation, images, task.target(images), torch.arange(len(images)), goals, **kwargs)


def published_search(loss_of, image, residual, width, *, n, length, step, restart, retention, generator):
    """Fixations of one image, (length, 2) as (row, column) in [-1, 1]: the published program, written from its text.

    Args:
        loss_of: (1, 3, S, S) -> loss, differentiable.
    """
    side = image.shape[-1]
    t = torch.linspace(-1.0, 1.0, side)

    def mask(p):
        return torch.exp(-((t[:, None] - p[0]) ** 2 + (t[None] - p[1]) ** 2) / width)

    memory, path = torch.zeros(side, side), []
    for _ in range(length):
        p, best, best_p = torch.zeros(2), math.inf, torch.zeros(2)
        for _ in range(n):
            p = p.detach().requires_grad_()
            loss = loss_of(image + residual * (1.0 - memory - mask(p)).clip(0.0, 1.0))
            (slope,) = torch.autograd.grad(loss, p)
            p = p.detach() - step * slope.sign()
            if loss.item() < best:
                best, best_p = loss.item(), p.clone()
            elif restart == "random":
                p = torch.rand(1, 2, generator=generator)[0] * 2.0 - 1.0
            else:
                p = p + step / 2.0 * (torch.rand(1, 2, generator=generator)[0] * 2.0 - 1.0)
        path.append(best_p)
        memory = retention * memory + mask(best_p)
    return torch.stack(path)
