"""An index in a browser: a typed HTTP API, and a page over it.

``server`` runs, ``app`` puts the parts together, ``routes`` says what is asked and answered (``schemas``), ``service``
does it in threads with the help of ``batching``. ``security`` and ``limits`` stand at the door, ``metrics`` counts.
"""

from importlib import util

from lpi.errors import MissingExtraError

for _part in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    if util.find_spec(_part) is None:
        raise MissingExtraError(f"{_part} is not installed. Install what serving needs with: pip install 'lpi[serve]'")
