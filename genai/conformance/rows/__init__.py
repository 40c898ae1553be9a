"""The rows, a file for each kind of operator. Sizes are small, and those that could be taken for each other differ: 2
rows, 3 new tokens, 11 slots, 4 heads of queries, 2 of keys and values, 8 numbers a head.
"""
