"""Reading PyTorch files without PyTorch, and the layer names of its libraries."""
