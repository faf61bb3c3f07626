"""Class activation maps: computing them (``cam``) and drawing them over the original image (``drawing``)."""
