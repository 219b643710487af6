"""Stand-ins for GPU hardware: an nvidia-smi script and an NVML library that show made-up GPUs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

MIB = 2**20
needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="the stand-in for NVML is compiled with gcc"
)

SCRIPT = """\
#!/bin/sh
echo "$*" >> '{folder}/calls'
case "$*" in
    *query-gpu=uuid,name,driver_version,memory.total*) cat '{folder}/query' ;;
    *query-gpu=uuid,memory.total,memory.free*) cat '{folder}/memory' ;;
    -L) cat '{folder}/listing' ;;
    "") echo "| NVIDIA-SMI 580.82.07   Driver Version: 580.82.07   CUDA Version: 13.0  |" ;;
    *) echo "unknown question: $*" >&2; exit 2 ;;
esac
"""
BROKEN = """\
#!/bin/sh
echo "Failed to initialize NVML: Driver/library version mismatch"
exit 18
"""

# Handles are pointers into the table; a device that is lost gives none, as NVML does.
LIBRARY = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct device {{
    const char *uuid, *name;
    unsigned long long total, free;
    int lost, divided, first, parts;
    unsigned instance, compute;
}};
static struct device table[] = {{
{rows}
    {{0}}
}};
static int count = {count};

int nvmlInit_v2(void) {{ {init} }}
int nvmlDeviceGetCount_v2(unsigned *number) {{ *number = count; return 0; }}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {{
    if (index >= count || table[index].lost) return 15;
    *device = &table[index];
    return 0;
}}
static int copy(const char *text, char *target, unsigned size) {{
    if (strlen(text) >= size) return 7;
    strcpy(target, text);
    return 0;
}}
int nvmlDeviceGetUUID(struct device *d, char *to, unsigned n) {{ return copy(d->uuid, to, n); }}
int nvmlDeviceGetName(struct device *d, char *to, unsigned n) {{ return copy(d->name, to, n); }}
int nvmlDeviceGetMemoryInfo(struct device *d, unsigned long long *sizes) {{
    if (!d->total) return 3;
    sizes[0] = d->total; sizes[1] = d->free; sizes[2] = d->total - d->free;
    return 0;
}}
int nvmlDeviceGetMigMode(struct device *d, unsigned *now, unsigned *later) {{
    if (d->divided < 0) return 3;
    *now = *later = d->divided;
    return 0;
}}
int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *number) {{ *number = 7; return 0; }}
int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned place, struct device **part) {{
    if (place % 2 == 0 || place / 2 >= d->parts) return 6; /* places may be empty */
    *part = &table[d->first + place / 2];
    return 0;
}}
int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *id) {{ *id = d->instance; return 0; }}
int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned *id) {{ *id = d->compute; return 0; }}
"""


@dataclass
class FakePart:
    """A MIG device; uuid begins with MIG-."""

    uuid: str
    instance: int = 1
    compute: int = 0
    total_mib: int = 18000
    free_mib: int = 17000


@dataclass
class FakeGpu:
    """A GPU; `parts` None means that MIG is off."""

    uuid: str
    name: str = "NVIDIA H200"
    total_mib: int = 143771
    free_mib: int = 143000
    parts: list[FakePart] | None = None
    lost: bool = False


@dataclass
class Machine:
    """A folder of stand-ins, and the GPUs they show."""

    folder: Path
    gpus: list[FakeGpu] = field(default_factory=list)

    @property
    def tool(self) -> str:
        """The path of the stand-in for nvidia-smi, whether it is there or not."""
        return str(self.folder / "nvidia-smi")

    @property
    def library(self) -> str:
        """The path of the stand-in for NVML, whether it is there or not."""
        return str(self.folder / "libnvidia-ml.so.1")

    @property
    def calls(self) -> list[str]:
        """What nvidia-smi was asked."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def with_tool(self, *, broken: bool = False) -> Machine:
        """Put nvidia-smi in place."""
        listing, query, memory = [], [], []
        for number, gpu in enumerate(self.gpus):
            query.append(f"{gpu.uuid}, {gpu.name}, 580.82.07, {gpu.total_mib}")
            memory.append(f"{gpu.uuid}, {gpu.total_mib}, {gpu.free_mib}")
            listing.append(f"GPU {number}: {gpu.name} (UUID: {gpu.uuid})")
            for place, part in enumerate(gpu.parts or ()):
                listing.append(f"  MIG 1g.18gb     Device  {place}: (UUID: {part.uuid})")
        for name, lines in (("query", query), ("memory", memory), ("listing", listing)):
            (self.folder / name).write_text("".join(f"{line}\n" for line in lines))
        path = Path(self.tool)
        path.write_text(BROKEN if broken else SCRIPT.format(folder=self.folder))
        path.chmod(0o755)
        return self

    def with_library(self, init: str = "return 0;") -> Machine:
        """Compile NVML; `init` is what its first function does."""
        wholes, parts = [], []
        for gpu in self.gpus:
            divided = -1 if gpu.parts is None else 1
            first = len(self.gpus) + len(parts)
            number = len(gpu.parts or ())
            wholes.append((gpu, gpu.name, int(gpu.lost), divided, first, number, 0, 0))
            parts += [(p, "part", 0, 0, 0, 0, p.instance, p.compute) for p in gpu.parts or ()]
        rows = [
            f'    {{"{item.uuid}", "{name}", {item.total_mib * MIB}ULL, {item.free_mib * MIB}ULL, '
            + ", ".join(map(str, rest))
            + "},"
            for item, name, *rest in wholes + parts
        ]
        source = self.folder / "nvml.c"
        source.write_text(LIBRARY.format(rows="\n".join(rows), count=len(wholes), init=init))
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", self.library, str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return self
