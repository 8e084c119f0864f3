"""Votes as data: preference files of other projects become pairs, and pairs become files.

Each format is one file with a pure function from a parsed record to pairs;
`szpo.data.preference_files` reads and writes. Nothing here needs a tensor library.
"""
