"""A typical Keras script for a folder that writes JSON Lines: ``keras_folder.py WEIGHTS FOLDER OUTPUT``."""

import json
import sys

import keras
import tensorflow as tf
from keras.applications.densenet import DenseNet121, preprocess_input

weights, folder, output = sys.argv[1:]
model = DenseNet121(weights=None)
model.load_weights(weights)
dataset = keras.utils.image_dataset_from_directory(
    folder, labels=None, image_size=(224, 224), batch_size=32, shuffle=False, verbose=False
)
names = dataset.file_paths
batches = dataset.map(preprocess_input, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
with open(output, "w") as file:
    for name, row in zip(names, model.predict(batches, verbose=0), strict=True):
        top5 = [[int(index), float(row[index])] for index in row.argsort()[::-1][:5]]
        file.write(json.dumps({"source": name, "predictions": top5}) + "\n")
