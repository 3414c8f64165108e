# The device: verifies and deploys policies, records into a store. No torch, no simulator (about 220 MB of packages).
#
#   docker build -f deploy/device.Dockerfile -t slipway-device .
#   docker run --rm --init --read-only --tmpfs /tmp -v "$PWD/arm.policy:/policy:ro" slipway-device verify /policy
#   docker run --rm --init --stop-timeout 10 --device /dev/ttyUSB0 -v "$PWD:/work" slipway-device \
#     deploy arm.policy --robot my_robot:make_robot --rate 50 --watchdog --record flights.zarr
#
# A container ends with its first process, and its watchdog with it: that one answers a loop that hangs, not one that dies.
# Real time: add --ulimit rtprio=50 --cap-add SYS_NICE and start it under `chrt -f 50`.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -r /wheels \
 && useradd --create-home --uid 1000 slipway
USER slipway
# Stores and robots of your own: `--robot module:factory` is looked for in the working directory.
WORKDIR /work
ENV PYTHONUNBUFFERED=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["slipway"]
CMD ["doctor"]
