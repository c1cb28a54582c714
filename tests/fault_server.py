"""A chat server that misbehaves: `python fault_server.py PORT_FILE SHARE_OF_FAULTS SEED`.

Faults: 429, 500, no answer, a connection reset in the middle of the body, invalid JSON, JSON of the wrong schema, a
truncated body, a reply truncated by its length. It answers questions 'Row 17: ...' with 17, in the format of the
cold-start stage of the prompt, and counts the good answers: GET /counts.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

FAULTS = ("429", "500", "hang", "reset", "garbage", "schema", "short", "cut_off")
HANG_S = 3.0


class Server:
    def __init__(self, share: float, seed: int) -> None:
        self.share, self.rng = share, random.Random(seed)
        self.given: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    await self.send(writer, {"given": self.given, "faults": self.faults})
                    continue
                length = int(re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)[1])
                body = json.loads(await reader.readexactly(length))
                await self.answer(writer, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        fault = self.rng.choice(FAULTS) if self.rng.random() < self.share else ""
        self.faults[fault] += 1
        good = json.dumps(self.completion(body, fault == "cut_off")).encode()
        if fault == "429":
            await self.send(writer, {"error": "slow down"}, "429 Too Many Requests", "retry-after: 0.01\r\n")
        elif fault == "500":
            await self.send(writer, {"error": "oh"}, "500 Internal Server Error")
        elif fault == "hang":
            await asyncio.sleep(HANG_S)
            raise ConnectionResetError
        elif fault == "reset":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + good[:40])
            await writer.drain()
            writer.transport.abort()
            raise ConnectionResetError
        elif fault == "garbage":
            await self.send_bytes(writer, b"\x00\xff<html>not JSON")
        elif fault == "schema":
            await self.send(writer, {"choices": [{"text": "old style"}]})
        elif fault == "short":
            await self.send_bytes(writer, good[: len(good) // 2])
        else:
            self.given[_name(body)] += 1
            await self.send_bytes(writer, good)

    def completion(self, body: dict[str, Any], cut_off: bool) -> dict[str, Any]:
        stage, row, _ = _name(body).split("/")
        text = {
            "pseudo_cot": f"Caption: a number. Reasoning: it reads {row}.",
            "description": f"There is one number in the picture, {row}.",
            "reasoning": f"<think>The number is {row}. I look once more: {row}.</think><answer>{row}</answer>",
        }[stage]
        message = {"role": "assistant", "content": text[: len(text) // 2] if cut_off else text}
        choice = {"index": 0, "message": message, "finish_reason": "length" if cut_off else "stop"}
        return {"model": "fake", "choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 20}}

    async def send(self, writer: asyncio.StreamWriter, value: Any, status: str = "200 OK", more: str = "") -> None:
        await self.send_bytes(writer, json.dumps(value).encode(), status, more)

    async def send_bytes(
        self, writer: asyncio.StreamWriter, content: bytes, status: str = "200 OK", more: str = ""
    ) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n{more}\r\n"
        writer.write(head.encode() + content)
        await writer.drain()


def _name(body: dict[str, Any]) -> str:
    """'stage/row/seed' of a request."""
    content = body["messages"][0]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    found = re.search(r"Row (\d+)", text)
    if found is None:  # the check before the run
        return "description/0/check"
    if isinstance(content, str):
        return f"reasoning/{found[1]}/{body['seed']}"
    return f"{'description' if 'Notes made' in text else 'pseudo_cot'}/{found[1]}/{body['seed']}"


async def main(port_file: Path, share: float, seed: int) -> None:
    server = await asyncio.start_server(Server(share, seed).serve, "127.0.0.1", 0, limit=1 << 24)
    fresh = port_file.with_suffix(".part")
    fresh.write_text(str(server.sockets[0].getsockname()[1]))
    fresh.replace(port_file)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
