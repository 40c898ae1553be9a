"""Fusing what exporters decompose back into standard operators, and saying where that was not possible and why."""

from genai.convert.fusions.fuse import fuse
from genai.convert.fusions.report import FusionReport, Mismatch, Site
from genai.convert.fusions.survey import survey

__all__ = ["FusionReport", "Mismatch", "Site", "fuse", "survey"]
