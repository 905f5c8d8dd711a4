"""Referring expressions: which box in a picture is meant, learned over tasks that arrive one after another.

The detectors are the library's own (``backbones``); LPI is the one of ``lpi.methods``, with the detector's losses in
the place of retrieval's (``lpi``). Whatever stands here is loaded only when it is asked for.
"""
