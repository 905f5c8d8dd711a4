"""Every operation of ``/openapi.json`` over a real socket, by a tool that knows nothing else; with a small budget."""

import importlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings

from lpi.search import SearchIndex
from lpi.serve.app import create_app
from lpi.serve.listening import listen
from lpi.serve.service import Service

schemathesis: Any = pytest.importorskip("schemathesis", reason="it needs Python 3.11")
BUDGET = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@pytest.fixture
def address(index: SearchIndex) -> Iterator[str]:
    """Of a server in this process."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(create_app(Service(index, threads=1)), log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


def test_every_operation_answers_as_its_document_says(address: str) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    # that whatever fits the schema is taken: it doesn't say that words mustn't be empty, or which folders there are
    excluded = [importlib.import_module("schemathesis.specs.openapi.checks").positive_data_acceptance]
    asked: set[str] = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @BUDGET
        def answers(case: Any) -> None:
            asked.add(f"{case.method} {case.path}")
            case.call_and_validate(excluded_checks=excluded)

        answers()
    assert len(asked) == sum(map(len, schema.raw_schema["paths"].values())) >= 11
