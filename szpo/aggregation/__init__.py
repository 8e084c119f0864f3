"""From votes to estimates: links, value differences, voter weights, and a test of the link.

Pure functions from counts and answers to arrays, without files, clock or tensor library.
"""
