"""Votes of people of known worth."""

import numpy as np

from szpo.aggregation.weighting import VotesByVoter


def make_votes(verdicts, gold=None, identical=None):
    """Votes (P, K, N), voters a, b, c, …"""
    verdicts = np.array(verdicts, dtype=np.int8)
    dead = np.zeros(verdicts.shape[-2:], dtype=bool) if identical is None else np.array(identical)
    return VotesByVoter(tuple("abcdefghijklmnop"[: verdicts.shape[-3]]), verdicts, dead, gold)
