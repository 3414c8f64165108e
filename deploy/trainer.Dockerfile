# The trainer: simulators, learning, reports, videos. A CPU build of torch unless told otherwise.
#
#   docker build -f deploy/trainer.Dockerfile -t slipway .
#   docker build -f deploy/trainer.Dockerfile -t slipway:cuda \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run --rm --init --stop-timeout 30 -v "$PWD:/work" slipway \
#     train --replay door.zarr --pretrain-steps 100000 --online-steps 50000 --out runs/door
#
# /work must be a local disk: stores are mapped and locked. Stopping saves first, which takes up to 9 seconds.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# g++: the compiled executor. EGL and Mesa: pictures without a screen.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ libegl1 libgl1-mesa-dri libgl1 \
 && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir "torch>=2.8,<2.14" --index-url "$TORCH_INDEX"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[train]" && rm -r /wheels \
 && useradd --create-home --uid 1000 slipway
USER slipway
WORKDIR /work
ENV PYTHONUNBUFFERED=1 MUJOCO_GL=egl
STOPSIGNAL SIGTERM
ENTRYPOINT ["slipway"]
CMD ["doctor"]
