"""Points of several processes and several devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Project
from grids import by_point, folders, set_up

SUMS = """\
import json
import os
import pathlib
import tomllib

import torch
import torch.distributed as dist


def main(input_dir, output_dir, params_file, wandb_config=None, resume_from=None):
    value = tomllib.loads(params_file.read_text())["value"]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    total = torch.tensor(float(value * 10 + rank))
    dist.all_reduce(total)
    seen = {"sum": total.item(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}
    (output_dir / f"rank{rank}.json").write_text(json.dumps(seen))
    print("rank", rank, "of", dist.get_world_size())
    dist.destroy_process_group()
    if value == 1 and rank == 1:
        raise ValueError("rank one has no luck")
    return {"sum": total.item()}
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["warm", "cold"])
def test_points_of_two_gloo_ranks_on_two_devices_each(project: Project, how: str) -> None:
    pytest.importorskip("torch")
    constants = "\nDEVICES = [0, 1, 2, 3]\nDEVICES_PER_RUN = 2\nPRELOAD = ['torch']\n"
    set_up(project, number=3, extra=constants)
    project.write("work.py", SUMS)
    with (project.root / "experiment.toml").open("a") as stream:
        stream.write("\n[engine]\nprocesses = 2\n")
    project.commit()
    call = ["--grid", "grid.py", "experiment.toml", *(["--cold"] if how == "cold" else [])]
    done = project.run(*call)
    assert done.returncode == 1, done.stderr
    (folder,) = folders(project)
    assert json.loads((folder / "grid.json").read_text())["warm"]["used"] is (how == "warm")
    found = by_point(folder)
    for value in (0, 1, 2):
        item = found[f"value-{value}"]
        run = Path(folder / item["run_id"])
        each = [json.loads((run / "outputs" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
        assert [one["sum"] for one in each] == [2 * value * 10 + 1.0] * 2
        assert each[0]["devices"] == each[1]["devices"]
        assert each[0]["devices"] in ("0,1", "2,3")
        assert (run / "log.out").read_text() == "rank 0 of 2\n"
        assert (run / "log.rank1.out").read_text() == "rank 1 of 2\n"
        assert item["processes"] == 2
    assert [found[f"value-{n}"]["state"] for n in range(3)] == ["completed", "failed", "completed"]
    assert "rank 1" in found["value-1"]["exit"]["cause"]
