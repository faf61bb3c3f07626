"""What a network saw of an image: class activation maps, laid back on the original photograph.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016 (https://arxiv.org/abs/1512.04150).
``maps`` computes them, ``drawing`` makes images of them, ``gallery`` keeps those as files.
"""
