"""Votes of voters of known reliability."""

import numpy as np

from szpo.optim.weighting import MINUS, PLUS, VotesByVoter


def make_votes(verdicts, identical=None):
    """Votes (P, K, N) of voters a, b, c, …"""
    verdicts = np.array(verdicts, dtype=np.int8)
    dead = np.zeros(verdicts.shape[-2:], dtype=bool) if identical is None else np.array(identical)
    return VotesByVoter(tuple("abcdefghijklmnop"[: verdicts.shape[-3]]), verdicts, dead)


def in_turns(who, plus, voters):
    """One vote per direction, by voter ``who`` (K,) of ``voters``, for plus where ``plus``."""
    verdicts = np.zeros((voters, len(who), 1))
    verdicts[who, np.arange(len(who)), 0] = np.where(plus, PLUS, MINUS)
    return make_votes(verdicts)
