"""Variety and repetition of texts, as `szpo.metrics` defines them."""

from __future__ import annotations

from szpo.metrics import distinct_n, repetition, words

__all__ = ["distinct_n", "repetition", "words"]
