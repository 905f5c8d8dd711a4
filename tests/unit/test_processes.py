"""Several processes share each batch: gradients and figures are those of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lpi.storage import read_json

GRADIENTS = """
import sys
import torch
import lpi
from lpi.processes import average_gradients, together
from lpi.tasks.stream import TaskStream
from lpi.features import TrainingSet
from lpi.config import TrainingSettings
from lpi.methods.base import begin

name, out = sys.argv[1:]
torch.set_num_threads(1)
with together() as number:
    stream = TaskStream.from_scenes(families=["food"], train=11, validation=0, test=4, held_out=0)
    method = lpi.method(name, "lpi-tiny")
    training = TrainingSet(stream.tasks[0], method.backbone)
    settings = TrainingSettings(batch=11)
    data = training.data(4, training.once_more(method, settings))
    begin(method, data, torch.Generator().manual_seed(0))
    batch = next(iter(training.epochs(method, settings)(seed=0, epoch=0)))
    parameters = method.trainable()
    torch.stack(list(method.loss(batch).values())).sum().backward()
    average_gradients(parameters)
    torch.save([p.grad for p in parameters], f"{out}-{number}.pt")
"""


def start(words: list[str], folder: Path, processes: int) -> None:
    """Run a command in so many processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    running = [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={**common, "RANK": str(number), "LOCAL_RANK": str(number), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for one in running:
        _, said = one.communicate(timeout=300)
        assert one.returncode == 0, said


# 11 pictures over 2 and 3 processes: neither share is even
@pytest.mark.parametrize(("name", "processes"), [("lpi", 2), ("finetune", 3), ("l2p", 2)])
def test_gradients_of_processes_are_those_of_one(tmp_path: Path, name: str, processes: int) -> None:
    for count in (1, processes):
        start(["-c", GRADIENTS, name, f"of-{count}"], tmp_path, count)
    alone = torch.load(tmp_path / "of-1-0.pt")
    largest = max(float(gradient.abs().max()) for gradient in alone if gradient is not None)
    assert largest > 0  # some are 0 but for rounding: those of the keys' biases, which softmax ignores
    for number in range(processes):
        together = torch.load(tmp_path / f"of-{processes}-{number}.pt")
        for mine, theirs in zip(alone, together, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5 * largest)


def test_a_run_over_two_processes_ends_as_one_of_its_own(tmp_path: Path) -> None:
    words = ["-m", "lpi", "run", "scenes", "--set", "stream.tasks=2", "--set", "stream.train=16"]
    words += [
        "--set",
        "stream.test=8",
        "--set",
        "stream.held_out=8",
        "--set",
        "training.steps=3",
        "--seeds",
        "0",
        "--no-report",
    ]
    for count in (1, 2):
        start([*words, "--out", f"runs-{count}", "--results", f"of-{count}.json"], tmp_path, count)
    one, two = (read_json(tmp_path / f"of-{count}.json", dict)["rows"] for count in (1, 2))
    assert one.keys() == two.keys()
    for row, figures in one.items():
        assert two[row]["final_r1"] == pytest.approx(figures["final_r1"], abs=1e-6)
    assert list((tmp_path / "runs-2").rglob("result.json"))
