"""Scoring by protocol: the same rules for people, controls and models."""

from gazekit.evaluation.intervals import paired_difference, summarize
from gazekit.evaluation.protocol import Protocol
from gazekit.evaluation.runner import Evaluation, evaluate

__all__ = ["Evaluation", "Protocol", "evaluate", "paired_difference", "summarize"]
