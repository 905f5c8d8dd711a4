"""Methods for referring expressions: which box in a picture is meant, learned over tasks that arrive one after another.

One file, one class, one name, as in :mod:`lpi.methods`. The detectors are the library's own
(:mod:`lpi.backbones.detectors`). Whatever stands here is loaded only when it is asked for.
"""
