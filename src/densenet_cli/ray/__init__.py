"""Running on Ray Data: ``densenet predict --ray`` and ``embed --ray``, and classes for pipelines of your own.

``job.py`` runs a job, ``listing.py`` lists its sources, ``worker.py`` computes parts, and ``folder.py`` is the output
folder. ``shared.py`` brings the model to all nodes, ``cluster.py`` connects to Ray, ``versions.py`` compares nodes, and
``records.py`` writes the formats. ``batches.py`` contains the classes for pipelines.
"""
