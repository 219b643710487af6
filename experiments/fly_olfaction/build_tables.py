"""Build the fly's tables from public files; `engram fetch` calls it with RAW and TABLES."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from neuro.connectome.content import content_hash
from neuro.connectome.fly_tables import build_tables, table_path


def build(raw: Path, target: Path) -> None:
    """Write every table as parquet, and the hashes of their content as JSON."""
    tables = build_tables(raw)
    for name, table in tables.items():
        table.to_parquet(table_path(target, name), compression="zstd")
    hashes = {name: content_hash(table) for name, table in tables.items()}
    (target / "content_hashes.json").write_text(json.dumps(hashes, indent=2) + "\n")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
