"""One file per format of the authors: ``NAME.py`` defines ``read_NAME(folder, card, **options) -> Tables``.

A file put here is registered by being here; see :data:`gazekit.datasets.FORMATS`.
"""
