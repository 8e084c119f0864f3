"""Zeroth-order policy optimisation from comparisons made by evaluators."""

from __future__ import annotations

__version__ = "0.1.0"
