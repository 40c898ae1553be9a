"""Fusing what exporters decompose back into standard operators, and saying where that was not possible and why."""

from genai.convert.fusions.fuse import fuse, survey
from genai.convert.fusions.report import FusionReport, Mismatch, Site

__all__ = ["FusionReport", "Mismatch", "Site", "fuse", "survey"]
