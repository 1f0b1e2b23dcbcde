"""A trained model: the classifier, which needs no Lightning, and evaluate, predict, export, figures, the page."""
