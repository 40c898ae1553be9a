# syntax=docker/dockerfile:1
#
#   docker build --target cpu -t genai:cpu .
#   docker build --target gpu -t genai:gpu .        needs an NVIDIA driver of version 580 or newer to run
#   docker build --target ray -t genai:ray .        the first one with Ray, for deploy/rayservice.yaml
#
#   cpu-base ─► cpu-build ─► cpu-libraries ─► cpu     Bases have Python, and only stages that build have more.
#                  └► wheel ───────────────────┤      What changes rarely lies below: new code is a last layer
#   gpu-base ─► gpu-build ─► gpu-libraries ─► gpu     of a few megabytes.
#
# onnxruntime-gpu 1.31 wants CUDA 13 and cuDNN 9. docs/deploy.md says how to run the image.

ARG CPU_IMAGE=debian:13.6-slim
ARG GPU_IMAGE=nvidia/cuda:13.0.3-cudnn-runtime-ubuntu24.04

FROM ${CPU_IMAGE} AS cpu-base
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/apt /var/log/dpkg.log

FROM ${GPU_IMAGE} AS gpu-base
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/apt /var/log/dpkg.log

FROM cpu-base AS cpu-build
# hadolint ignore=DL3008,DL3009
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
WORKDIR /build

# The libraries that were tested (`make lock`), in an environment that moves to the final image as it is. Bytecode is made
# here, because a read-only root keeps none; not for transformers, which is large and not needed to serve.
FROM cpu-build AS cpu-libraries
COPY deploy/locks/server-cpu.txt ./
RUN python3 -m venv /opt/genai \
 && /opt/genai/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes --requirement server-cpu.txt \
 && /opt/genai/bin/python -m compileall -q -x /transformers/ /opt/genai/lib

FROM cpu-build AS ray-libraries
COPY deploy/locks/server-ray.txt ./
RUN python3 -m venv /opt/genai \
 && /opt/genai/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes --requirement server-ray.txt \
 && /opt/genai/bin/python -m compileall -q -x /transformers/ /opt/genai/lib

FROM gpu-base AS gpu-build
# hadolint ignore=DL3008,DL3009
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
WORKDIR /build

FROM gpu-build AS gpu-libraries
COPY deploy/locks/server-gpu.txt ./
RUN python3 -m venv /opt/genai \
 && /opt/genai/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes --requirement server-gpu.txt \
 && /opt/genai/bin/python -m compileall -q -x /transformers/ /opt/genai/lib

FROM cpu-build AS wheel
COPY deploy/locks/build.txt ./
RUN python3 -m venv /opt/pip \
 && /opt/pip/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement build.txt
COPY pyproject.toml README.md LICENSE ./
COPY genai genai
COPY server server
RUN /opt/pip/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM cpu-base AS cpu
LABEL org.opencontainers.image.title="genai" \
      org.opencontainers.image.description="OpenAI-compatible server for ONNX decoder models, on the CPU" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin genai \
 && install --directory --owner=genai --group=genai /models
COPY --from=cpu-libraries /opt/genai /opt/genai
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/genai/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
COPY configs /etc/genai
# HOME: for libraries that keep notes; /tmp is what stays writable when the root is not.
ENV PATH=/opt/genai/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    GENAI_HOME=/models \
    GENAI_SERVER_HOST=0.0.0.0 \
    GENAI_SERVER_PORT=8000
VOLUME /models
EXPOSE 8000
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ['GENAI_SERVER_PORT'] + '/health', timeout=4)"]
# The server is process 1 itself, so that SIGTERM reaches it. Without GENAI_API_KEYS whoever reaches the port may use it.
ENTRYPOINT ["genai", "serve"]
CMD ["smollm2-135m-instruct"]

# The operator starts Ray in it, and asks with wget how it is.
FROM cpu AS ray
LABEL org.opencontainers.image.description="OpenAI-compatible server for ONNX decoder models, on Ray Serve"
USER root
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends wget \
 && rm -rf /opt/genai /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/apt /var/log/dpkg.log
COPY --from=ray-libraries /opt/genai /opt/genai
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/genai/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT []
CMD ["ray", "--help"]

FROM gpu-base AS gpu
LABEL org.opencontainers.image.title="genai" \
      org.opencontainers.image.description="OpenAI-compatible server for ONNX decoder models, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin genai \
 && install --directory --owner=genai --group=genai /models
COPY --from=gpu-libraries /opt/genai /opt/genai
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/genai/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
COPY configs /etc/genai
ENV PATH=/opt/genai/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    GENAI_HOME=/models \
    GENAI_SERVER_HOST=0.0.0.0 \
    GENAI_SERVER_PORT=8000 \
    GENAI_SERVER_ENGINE_DEVICE=cuda
VOLUME /models
EXPOSE 8000
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ['GENAI_SERVER_PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["genai", "serve"]
CMD ["smollm2-135m-instruct"]
