"""What a trained model is used for: evaluate, predict, export, figures, the page."""
