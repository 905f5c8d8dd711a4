"""The doors of ``fuzz.py`` that a server has: odd requests, and a walk of all that ``/openapi.json`` says there is."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from fuzz_doors import ODD, Readers, odd_bytes

TEXTS = [str(one).encode("utf-8", "replace").decode() for one in ODD]
BUSY = (501, 503)


class Doors(Readers):
    """Every door by its name, a server's among them."""

    _client: Any = None

    def close(self) -> None:
        """End the server."""
        if self._client is not None:
            self._client.__exit__(None, None, None)

    def server(self) -> Any:
        """A client of a server of a small index, made when it is first asked for."""
        if self._client is None:
            from starlette.testclient import TestClient

            from lpi.search import SearchIndex
            from lpi.serve.app import create_app
            from lpi.serve.service import Service

            place = Path(tempfile.mkdtemp(dir=self.work))
            (place / "photos").mkdir()
            for number, content in enumerate(self.pictures[:4]):
                (place / "photos" / f"{number}.png").write_bytes(content)
            index = SearchIndex.build("lpi-tiny", place / "photos", index=place / "ix", device="cpu")
            self._id = index.search("a boat", count=1)[0].id
            app = create_app(Service(index))
            self._client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
            self._client.__enter__()
            self._told = self._client.get("/openapi.json").json()
        return self._client

    def door_http(self, chance: random.Random) -> object:
        client = self.server()
        names = ("q", "k", "stage", "scoring", "folder", "task", "since", "until", "exact", "side", "expression", "x")
        query = {chance.choice(names): chance.choice(TEXTS)[:2000] for _ in range(chance.randint(0, 4))}
        address = chance.choice(
            ("/api/search", "/api/info", "/api/health", "/metrics", "/", "/api/pictures/{}", "/api/pictures/{}/file",
             "/api/pictures/{}/thumbnail", "/api/pictures/{}/similar", "/api/pictures/{}/ground", "/%00", "/../x")
        ).format(chance.choice([self._id, "0" * 32, "x", "..%2f..", "%00"]))  # fmt: skip
        heads = {
            chance.choice(("Range", "If-None-Match", "Accept", "X")): chance.choice(TEXTS)[:200]
            .encode("ascii", "replace")
            .decode()
            .replace("\0", "")
            .replace("\x1b", "")
        }
        body = odd_bytes(chance.choice(self.pictures), chance) if chance.random() < 0.3 else None
        if body is not None:
            heads["Content-Type"] = chance.choice(("image/png", "multipart/form-data; boundary=x", "text/plain", "a/b"))
        answer = client.request("POST" if body else "GET", address, params=query, headers=heads, content=body)
        if answer.status_code >= 500 and answer.status_code not in BUSY:
            raise RuntimeError(f"{answer.status_code} for {address} {query} {heads}")
        if answer.status_code >= 400 and "error" not in answer.json():
            raise RuntimeError(f"no line for {address} {query}")
        return answer.status_code

    def door_openapi(self, chance: random.Random) -> object:
        """One operation of those that the document lists; its answer must be one that it lists, and of that form."""
        client = self.server()
        address = chance.choice(sorted(self._told["paths"]))
        method = chance.choice(sorted(self._told["paths"][address]))
        operation = self._told["paths"][address][method]
        query, right, place = {}, True, address
        for parameter in operation.get("parameters", []):
            value, fits = self._value(parameter, chance)
            if parameter["in"] == "path":
                place = place.replace(f"{{{parameter['name']}}}", value)
            elif parameter.get("required") or chance.random() < 0.4:
                query[parameter["name"]] = value
                right &= fits
        body, heads = None, {}
        if "requestBody" in operation:
            whole = chance.choice(self.pictures[:2])
            body = whole if chance.random() < 0.5 else odd_bytes(whole, chance)
            heads["Content-Type"] = chance.choice(("image/png", "image/jpeg", "multipart/form-data; boundary=x"))
        answer = client.request(method.upper(), place, params=query, content=body, headers=heads)
        what = f"{answer.status_code} for {method} {place} {query}"
        listed = operation["responses"].get(str(answer.status_code))
        if listed is None:
            raise RuntimeError(f"{what}, which isn't among {sorted(operation['responses'])}")
        if not right and answer.status_code == 200:
            raise RuntimeError(f"{what}: a value that its schema refuses was taken")
        schema = listed.get("content", {}).get("application/json", {}).get("schema")
        if schema and (wrong := self._unlike(answer.json(), schema)):
            raise RuntimeError(f"{what}: {wrong}")
        return answer.status_code

    def _value(self, parameter: dict[str, Any], chance: random.Random) -> tuple[str, bool]:
        """A value for a parameter, and whether its schema takes it."""
        if parameter["in"] == "path":
            return chance.choice([self._id, self._id, "0" * 32, "x"]), True
        kinds = parameter["schema"].get("anyOf", [parameter["schema"]])
        kind = next(one for one in kinds if one.get("type") != "null")
        if chance.random() < 0.15 and kind["type"] in ("integer", "number", "boolean"):
            return "nonsense", False
        if kind["type"] in ("integer", "number"):
            least, most = kind.get("minimum", 0), kind.get("maximum", kind.get("exclusiveMaximum", 9) - 1)
            if chance.random() < 0.2 and "minimum" in kind:
                return str(least - 1), False
            return str(chance.choice([least, most, (least + most) // 2])), True
        if kind["type"] == "boolean":
            return chance.choice(["true", "false", "1", "0"]), True
        wanted = {"q": ["a boat", "soup"], "scoring": ["plain"], "since": ["2020-01-01"], "until": ["2030-12-31"]}
        return chance.choice([*wanted.get(parameter["name"], ["x", "a/b"]) * 3, *TEXTS])[:2000], True

    def _unlike(self, value: Any, schema: dict[str, Any], where: str = "answer") -> str:
        """In what a value isn't of a schema, of as much of JSON Schema as the document uses; empty where it is."""
        if "$ref" in schema:
            schema = self._told["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            found = [self._unlike(value, one, where) for one in schema["anyOf"]]
            return "" if "" in found else found[0]
        types: dict[str, Any] = {
            "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
            "null": type(None),
        }  # fmt: skip
        kind = schema.get("type")
        if kind and (not isinstance(value, types[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
            return f"{where} must be {kind}; got {type(value).__name__}"
        if kind == "object":
            lacking = [name for name in schema.get("required", []) if name not in value]
            if lacking:
                return f"{where} lacks {lacking}"
            inner = schema.get("properties", {})
            found = [self._unlike(value[name], one, f"{where}.{name}") for name, one in inner.items() if name in value]
            return next((one for one in found if one), "")
        if kind == "array" and "items" in schema:
            found = [self._unlike(one, schema["items"], f"{where}[]") for one in value]
            return next((one for one in found if one), "")
        return ""
