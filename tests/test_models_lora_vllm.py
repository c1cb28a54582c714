"""vLLM reads a saved directory of adapters and continues as the policy does; `SACCADE_VLLM` names its executable."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from test_models_lora import config, scatter

from saccade.models.chat_template import MARKER
from saccade.models.policy import load_policy, resolve_path
from saccade.rollout.config import Sampling
from saccade.rollout.engine import open_engine
from saccade.rollout.prompts import Prompt

QUESTION = "How many red shapes are there?"
SCRIPT = """
import json, sys
from PIL import Image
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
base, adapters, image, question = sys.argv[1:]
model = LLM(base, dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=4,
            limit_mm_per_prompt={"image": 1, "video": 0}, enable_lora=True, max_lora_rank=8)
turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
text = model.get_tokenizer().apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
prompt = {"prompt": text, "multi_modal_data": {"image": Image.open(image)}}
options = SamplingParams(temperature=0, max_tokens=8, logprobs=0)
(reply,) = model.generate(prompt, options, lora_request=LoRARequest("run", 1, adapters))[0].outputs
logprobs = [one[token].logprob for one, token in zip(reply.logprobs, reply.token_ids)]
print("REPLY", json.dumps({"ids": list(reply.token_ids), "logprobs": logprobs}))
"""
QUIET = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
QUIET |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.vllm
def test_vllm_replies_with_saved_adapters_as_the_policy_does(tmp_path: Path) -> None:
    executable = os.environ.get("SACCADE_VLLM")
    if not executable:
        pytest.skip("set SACCADE_VLLM to the executable 'vllm' of an environment that has it")
    policy = load_policy(config(Path("base"), lora={"rank": 8, "alpha": 16}))
    scatter(policy)
    policy.save(tmp_path / "adapters")
    image = Image.new("RGB", (112, 84), "white")
    ImageDraw.Draw(image).ellipse((20, 20, 60, 60), fill=(200, 30, 30))
    image.save(tmp_path / "image.png")
    prompt = Prompt(None, policy.adapter.encode(MARKER + QUESTION, [image]), (image,))
    ((ours,),) = open_engine(policy).generate([prompt], Sampling(max_new_tokens=8, greedy=True), 1, [0])
    ((base,),) = open_engine(load_policy("base")).generate([prompt], Sampling(max_new_tokens=8, greedy=True), 1, [0])
    assert ours.token_ids != base.token_ids, "the adapters change the reply"
    python = str(Path(executable).parent / "python")
    arguments = [resolve_path("base"), str(tmp_path / "adapters"), str(tmp_path / "image.png"), QUESTION]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | QUIET
    done = subprocess.run(
        [python, "-c", SCRIPT, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("REPLY"))[len("REPLY") :])
    assert tuple(theirs["ids"]) == ours.token_ids
    assert theirs["logprobs"] == pytest.approx(list(ours.logprobs), abs=2e-3)
