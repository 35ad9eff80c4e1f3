"""Media: audio and images, one implementation for training and serving."""
