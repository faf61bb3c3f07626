"""A typical Keras script that classifies an image: ``keras_script.py WEIGHTS IMAGE``."""

import sys

import numpy as np
from keras.applications.densenet import DenseNet121, preprocess_input
from keras.utils import img_to_array, load_img

weights, image = sys.argv[1:]
model = DenseNet121(weights=None)
model.load_weights(weights)
pixels = img_to_array(load_img(image, target_size=(224, 224)))
probabilities = model.predict(preprocess_input(pixels[np.newaxis]), verbose=0)[0]
for index in probabilities.argsort()[::-1][:5]:
    print(f"{index:5d} {probabilities[index]:.4%}")
