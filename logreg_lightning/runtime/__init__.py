"""What makes training fast and exact: batches, several optimiser steps a call, curves, checkpoints, signals, processes.

A first reader may skip it. Nothing here imports the rest of the package, types aside.
"""
