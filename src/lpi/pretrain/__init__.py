"""The embedded models, made by this project itself: ``lpi pretrain scenes`` and ``lpi pretrain grounding``."""
