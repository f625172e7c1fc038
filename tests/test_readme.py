"""The README tells the truth: its example runs, and the commands it names exist."""

import re
import subprocess
from pathlib import Path

import pytest

from nokv.testing.cluster import LocalCluster

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.processes
def test_the_sdk_example_runs_as_it_stands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    with LocalCluster(nodes=1, workers=1) as cluster:
        cluster.wait_ready()
        example = blocks[0].replace("nokv://127.0.0.1:6658", cluster.url)
        assert cluster.url in example
        exec(compile(example, "README.md", "exec"), {})


def test_every_task_of_run_that_is_named_exists() -> None:
    named = set(re.findall(r"\./run ([a-z-]+)", README))
    assert {"demo", "test", "bench"} <= named
    usage = subprocess.run(["./run", "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for task in named:
        assert re.search(rf"^  {task} ", usage, re.MULTILINE), f"./run {task} is not in its help"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target
