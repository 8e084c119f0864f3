"""The vote service and the life of a round: seats, casting, counting, closing, applying.

A late vote is refused or stored as late in `casting`; `counting` says which votes stand.
"""
