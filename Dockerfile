# A GPU node: docker build -t saccade . && docker run --gpus all -v "$PWD:/data" saccade rl my.yaml
# PyTorch and CUDA come from the base image; give another with --build-arg BASE=...
ARG BASE=pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/data/.cache/huggingface
WORKDIR /opt/saccade
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
# The image's torch stays as it is: constraints.txt pins another build.
RUN grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
    && pip install -c /tmp/constraints.txt '.[train,lora,coldstart]' \
    && rm -rf /opt/saccade/src

WORKDIR /data
ENTRYPOINT ["saccade"]
CMD ["--help"]
