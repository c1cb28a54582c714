"""The report: one self-contained HTML page, made only from the files of a run directory."""

from saccade.report.page import build_report

__all__ = ["build_report"]
