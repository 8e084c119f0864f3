"""Improve a policy on a score of its own answers, without votes."""
