"""What a model sees of pictures: frozen backbones, and the features that they compute."""
