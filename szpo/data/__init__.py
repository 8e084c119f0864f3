"""Votes as data: preference files of other projects are read as pairs, and pairs are written.

Each format has a module with a pure function from a parsed record to pairs;
`szpo.data.preference_files` reads and writes files. No tensor library is needed.
"""
