# The service, and every other command of casebook; see docs/service.md, Docker.
# FAISS and PyTorch for NVIDIA GPUs: docker build --build-arg EXTRA=gpu .
FROM python:3.11-slim-bookworm

ARG EXTRA=cpu

RUN useradd --create-home --uid 1000 casebook \
    && mkdir /store /data /home/casebook/.cache \
    && chown casebook:casebook /store /data /home/casebook/.cache

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE casebook.py ./
COPY embedder embedder
COPY index index
COPY evaluate evaluate
COPY service service
# An index that has PyTorch without CUDA libraries, most of its size, may be given here.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint constraints.txt ".[$EXTRA,dicom]"

USER casebook
WORKDIR /home/casebook
ENV CASEBOOK_STORE=/store CASEBOOK_DATA=/data CASEBOOK_HOST=0.0.0.0
VOLUME ["/store", "/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=8)"]
ENTRYPOINT ["casebook"]
CMD ["serve"]
