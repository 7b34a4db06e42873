"""1x1 convolutions: matrix products."""
