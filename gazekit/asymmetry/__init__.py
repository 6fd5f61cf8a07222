"""The search-asymmetry laboratory: plans, runs, scoring, figures and reports."""

from gazekit.asymmetry import figures
from gazekit.asymmetry.analysis import Analysis, analyze, published_fixations, published_indices, published_slopes
from gazekit.asymmetry.plan import Plan, PlannedModel, PlannedTask, read_plan
from gazekit.asymmetry.report import write_asymmetry_report
from gazekit.asymmetry.run import AsymmetryRun, read_run, run_plan

__all__ = [
    "Analysis", "AsymmetryRun", "Plan", "PlannedModel", "PlannedTask", "analyze", "figures", "published_fixations",
    "published_indices", "published_slopes", "read_plan", "read_run", "run_plan", "write_asymmetry_report",
]  # fmt: skip
