"""An index in a browser: a typed HTTP API, and a page over it.

``server`` runs, ``app`` puts the parts together, ``routes`` says what is asked and answered (``schemas``), ``service``
does it in threads with the help of ``batching``. ``security`` and ``limits`` stand at the door, ``metrics`` counts.
"""

from lpi.extras import missing, missing_extra

if _missing := missing("serve"):
    raise missing_extra(f"serving needs {', '.join(_missing)}, which can't be imported", "serve")
