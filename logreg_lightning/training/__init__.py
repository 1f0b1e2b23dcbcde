"""What a training needs besides the model: settings, standardisation, what auto becomes, metrics, many heads."""
