"""What a model sees of pictures: their pixels or the features of a frozen backbone, made once, in one cache."""
