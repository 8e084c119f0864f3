"""Votes to estimates: links, estimators of value differences, voter weights, the link's test.

Pure: counts and answers in, arrays out. No file, no clock, no tensor library.
"""
