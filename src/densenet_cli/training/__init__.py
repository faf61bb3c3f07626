"""Training: class folders in, one ``model.safetensors`` out. Written on Keras 3's own interface alone."""
