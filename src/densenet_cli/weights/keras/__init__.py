"""Reading Keras files: ``.keras``, ``.h5``, and ``.weights.h5``, without Keras."""
