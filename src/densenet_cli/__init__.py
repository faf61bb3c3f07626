"""DenseNet image classifier."""
