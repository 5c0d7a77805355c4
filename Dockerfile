# syntax=docker/dockerfile:1
# A server on CPU workers: docker build -t superserve . && docker run -p 8000:8000 superserve
# tests/distribution/test_image.py runs these steps without Docker.

FROM python:3.12-slim AS build
# Builds of torch without CUDA; for workers on GPUs: --build-arg PIP_ARGS=
ARG PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# Extras, such as [otel] or [otel,ray]
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN python -m venv /opt/superserve
RUN /opt/superserve/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt ${PIP_ARGS} ".${EXTRAS}"

FROM python:3.12-slim
COPY --from=build /opt/superserve /opt/superserve
# Profiles and compiled code are kept here: mount a volume to keep them beyond the container.
RUN install --directory --owner=10001 --group=10001 /var/cache/superserve
# A user of no name: torch asks for one, and a home.
ENV PATH=/opt/superserve/bin:$PATH \
    HOME=/var/cache/superserve \
    USER=superserve \
    SUPERSERVE_CACHE=/var/cache/superserve \
    SUPERSERVE_SERVER__HOST=0.0.0.0
USER 10001:10001
WORKDIR /var/cache/superserve
EXPOSE 8000 8001 8002
# Not ready until a first start has measured its profile. With TLS or another port, give a check of your own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
# No shell in between: SIGTERM reaches the server, which answers what it has admitted and ends.
STOPSIGNAL SIGTERM
ENTRYPOINT ["superserve"]
CMD ["serve", "digits"]
