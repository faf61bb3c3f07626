"""Decoding in processes of its own, so that a decoder that crashes, hangs or swells costs one image and no run.

``workers.py`` has as many processes as there are images being decoded at once, ``worker.py`` is the parent's end of
one, ``child.py`` runs in it, within ``limits.py``. They exchange ``messages.py``: words and raw bytes, never objects,
so that a decoder that was taken over can't make the parent do anything.
"""
