"""The same estimators on engines of many machines.

A fit asks for sums over blocks of rows, and does not ask where the blocks are: see
``_fit`` for what an engine has to do.
"""
