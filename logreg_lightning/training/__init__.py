"""What `fit` and `sweep` share: an experiment, many heads, standardisation, what auto becomes, metrics."""
