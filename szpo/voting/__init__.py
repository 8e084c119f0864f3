"""The vote service and the life of a round: seats, casting, counting, closing, applying.

`casting` refuses a late vote or stores it as late; `counting` decides which votes stand and count.
"""
