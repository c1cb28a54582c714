"""How fast a cold start runs when its teachers cost nothing, and in what memory: `python -m benchmarks.coldstart`.

Rows per second: one process against a chat server on this machine that answers at once (in a process of its own), each
row with an image of 448 x 448 pixels and 2 + SAMPLES requests. Peak memory: the resident set of a process that takes
rows through everything but HTTP (ingest, store, reasoning by teachers in process, the files of the set), for a few and
for many rows. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saccade.coldstart import run as cold_start
from saccade.coldstart.recipe import ColdStartRecipe
from saccade.coldstart.teachers import TeacherCall, TeacherReply
from saccade.runs.drafts import StepRecord

SAMPLES = 2
CHAIN = "The number in the picture is what is asked for. Wait, let me check it again. " * 12
ROOT = Path(__file__).parent.parent
SPAWN = multiprocessing.get_context("spawn")


def text_of(prompt: str) -> str:
    """The instant reply of a teacher to a prompt."""
    number = re.search(r"Row (\d+)", prompt)
    value = number[1] if number else "0"
    if "End with the final answer" in prompt:
        return f"<think>Row {value}: {CHAIN}</think><answer>{value}</answer>"
    return f"The picture shows the number {value}. " + "There is nothing else of note in it. " * 20


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            content = json.loads(body)["messages"][0]["content"]
            text = text_of(content if isinstance(content, str) else content[-1]["text"])
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 900, "completion_tokens": len(text.split())}
            answer = json.dumps({"model": "fast", "choices": [choice], "usage": usage}).encode()
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\n\r\n".encode() + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


def _run_server(pipe: Any) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=1 << 26)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def fast_server() -> Iterator[str]:
    """The address of a server that answers at once."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_run_server, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def write_rows(folder: Path, n: int) -> Path:
    """n questions about one noisy image."""
    noise = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.jpg", quality=85)
    with (folder / "rows.jsonl").open("w") as lines:
        for i in range(n):
            turns = [{"from": "human", "value": f"Row {i}: which number?"}, {"from": "gpt", "value": str(i)}]
            lines.write(json.dumps({"id": f"r{i}", "image": "a.jpg", "conversations": turns, "task": "count"}) + "\n")
    return folder / "rows.jsonl"


def recipe(folder: Path, rows: Path, url: str, concurrency: int) -> ColdStartRecipe:
    teacher = {"teacher": "endpoint", "url": url, "model": "fast", "concurrency": concurrency}
    return ColdStartRecipe.model_validate(
        {
            "kind": "coldstart",
            "out": folder / "set",
            "data": [{"source": "vlm_r1", "path": rows}],
            "vision": teacher,
            "reasoner": teacher,
            "samples": SAMPLES,
            "filters": [],
            "polish": False,
        }
    )


def rows_per_second(n: int, concurrency: int) -> dict[str, float]:
    """The whole run, including ingest and output files."""
    with tempfile.TemporaryDirectory() as name, fast_server() as url:
        folder = Path(name)
        rows = write_rows(folder, n)
        wall, cpu = time.perf_counter(), time.process_time()
        summary = cold_start.run(recipe(folder, rows, url, concurrency))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if summary["written"]["in the set"] != n:
        raise RuntimeError(f"{n} rows went in, {summary['written']} came out")
    calls = n * (2 + SAMPLES)
    return {"rows": n, "rows_per_s": n / wall, "requests_per_s": calls / wall, "cpu_ms_per_request": 1e3 * cpu / calls}


class InProcess:
    """A teacher that replies instantly without HTTP."""

    model = "fast"

    async def check(self, needs_vision: bool) -> None:
        """Always available."""

    def close(self) -> None:
        """Holds nothing."""

    async def write(self, call: TeacherCall) -> TeacherReply:
        await asyncio.sleep(0)
        prompt = call.draft.question + (" End with the final answer" if call.stage == "reasoning" else "")
        text = text_of(prompt)
        sampling = call.sampling.model_dump()
        spent = (900, len(text.split()), 0.0, 0.0)
        record = StepRecord(call.stage, "fast", "p@1:0", sampling, *spent, False, "stop", call.number, call.arm)
        return TeacherReply(text, None, record)


def memory(n: int) -> dict[str, float]:
    """The peak in MiB of this process after n rows, which must be a fresh one."""
    cold_start.build_teachers = lambda recipe, keys: (InProcess(), InProcess())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder, n)
        began = time.perf_counter()
        summary = cold_start.run(recipe(folder, rows, "http://127.0.0.1:9", 1))
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in (folder / "set").glob("*.sqlite*"))
    if summary["written"]["in the set"] != n:
        raise RuntimeError(f"{n} rows went in, {summary['written']} came out")
    return {"rows": n, "peak_mb": high_water(), "rows_per_s": n / seconds, "store_mb": size / 2**20}


def high_water() -> float:
    """The largest resident set of this process so far, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024.0 for line in lines if line.startswith("VmHWM:"))


def in_fresh_process(n: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.coldstart", "--memory-of", str(n)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{n} rows failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000, help="rows sent over HTTP (%(default)s)")
    parser.add_argument("--many", type=int, default=100_000, help="rows of the larger memory run (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests under way at once (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go as well")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory(options.memory_of)))
        return
    rows, few, many = (60, 100, 600) if options.quick else (options.rows, 1_000, options.many)
    found = {"http": rows_per_second(rows, options.concurrency)}
    print("  ".join(f"{name} {value:,.2f}" for name, value in found["http"].items()), flush=True)
    for name, n in (("few", few), ("many", many)):
        found[name] = in_fresh_process(n)
        print("  ".join(f"{key} {value:,.1f}" for key, value in found[name].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
