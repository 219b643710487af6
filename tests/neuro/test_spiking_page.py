"""The code of docs/spiking.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "spiking.md"


def test_code_of_the_page_runs_in_its_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) >= 2
    layer, recurrent = names["layer"], names["recurrent"]
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in layer.parameters())
    assert recurrent.scaling_factors.shape == (2, 2)
    assert (recurrent.scaling.log_factors.grad != 0).any()
