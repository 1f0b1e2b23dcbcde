"""Files, processes, signals, checkpoints, curves, threads, CUDA graphs: nothing of logistic regression.

A first reader may skip it. Nothing here imports anything of the package but `errors`.
"""
