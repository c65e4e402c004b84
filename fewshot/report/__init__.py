"""Reports: what a comparison found, as data, table, Markdown and HTML."""

from fewshot.report.model import Draws, ImageInfo, Pictures, Report, Result, StrategyInfo, SummaryRow

__all__ = ["Draws", "ImageInfo", "Pictures", "Report", "Result", "StrategyInfo", "SummaryRow"]
