"""Votes of people of known worth."""

import numpy as np

from szpo.aggregation.weighting import MINUS, PLUS, VotesByVoter


def make_votes(verdicts, gold=None, identical=None):
    """Votes (P, K, N), voters a, b, c, …"""
    verdicts = np.array(verdicts, dtype=np.int8)
    dead = np.zeros(verdicts.shape[-2:], dtype=bool) if identical is None else np.array(identical)
    return VotesByVoter(tuple("abcdefghijklmnop"[: verdicts.shape[-3]]), verdicts, dead, gold)


def in_turns(who, plus, voters):
    """One vote a direction, each of one of so many voters: ``who`` (K,), for plus where true."""
    verdicts = np.zeros((voters, len(who), 1))
    verdicts[who, np.arange(len(who)), 0] = np.where(plus, PLUS, MINUS)
    return make_votes(verdicts)
