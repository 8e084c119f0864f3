"""The optimizer, as ask and tell: directions, rules (known, sign, regression), step sizes.

Pure: a state in, a state out. `optimizer` is the place to begin reading.
"""
