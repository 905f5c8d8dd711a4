"""The stages of an index as its manifest names them, each opened when it is first asked for."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from lpi.errors import CheckpointError, ConfigError
from lpi.methods import Named
from lpi.methods.base import Method
from lpi.search.fit import Fitting
from lpi.search.identity import load_stage
from lpi.search.manifest import Manifest
from lpi.search.snapshot import Snapshot
from lpi.search.store import Store
from lpi.search.table import WHOLE_BELOW


class Stages:
    """What one manifest names. The current stage is opened at once; any number of threads may ask for others.

    Attributes:
        folder: of the index.
        manifest: what counts.
        store: where the features and the rows of all stages are.

    Args:
        device: where models compute.
        method_file: see :class:`lpi.search.index.SearchIndex`.
        before: the stages of an earlier manifest: what hasn't changed since is not opened again.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: torch.device,
        method_file: Named | None = None,
        before: Stages | None = None,
    ) -> None:
        self.folder, self.manifest, self.method_file = folder, manifest, method_file
        self.store: Store
        self._device, self._lock = device, threading.RLock()
        self._methods: dict[str, Method] = {}
        self._snapshots: dict[int, Snapshot] = {}
        if before is not None and before.manifest.store == manifest.store:  # or another model's index took its place
            self.store = before.store
            with before._lock:
                self._methods.update(before._methods)
                self._snapshots.update({n: own for n, own in before._snapshots.items() if own.stage in manifest.stages})
        else:
            self.store = Store(manifest.store_in(folder), manifest.width)
        self.at(None)

    def at(self, number: int | None) -> Snapshot:
        """A stage by its number; ``None`` is the current one.

        Raises:
            ConfigError: there is no such stage.
        """
        stages = self.manifest.stages
        if number is not None and not 0 <= number < len(stages):
            raise ConfigError(f"stage must be between 0 and {len(stages) - 1}; got {number}. See: lpi stages")
        stage = stages[-1 if number is None else number]
        with self._lock:
            if stage.number not in self._snapshots:
                if stage.model not in self._methods:
                    shared = next(iter(self._methods.values())).backbone if self._methods else None
                    loaded = load_stage(self.folder, self.manifest, stage, shared, method_file=self.method_file)
                    self._methods[stage.model] = loaded.to(self._device)
                rows = self.store.rows(stage.version, stage.look)
                if len(rows) < WHOLE_BELOW and (damaged := rows.damaged()):
                    raise CheckpointError(
                        f"{self.folder}: {len(damaged)} of its rows are damaged, first that of picture {damaged[0]}. "
                        "'lpi index --check' says what else is; take it from a backup, or index into a new folder."
                    )
                fitting = Fitting(self.folder / "models" / stage.model)
                fitting.recall(stage.version)
                self._snapshots[stage.number] = Snapshot(stage, self._methods[stage.model], rows, fitting)
            return self._snapshots[stage.number]
