# casebook on the command line: docker run --rm -v "$PWD/store:/store" casebook info
# FAISS for NVIDIA GPUs: docker build --build-arg EXTRA=gpu .
FROM python:3.11-slim-bookworm

ARG EXTRA=cpu

RUN useradd --create-home --uid 1000 casebook \
    && mkdir /store /data \
    && chown casebook:casebook /store /data

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE casebook.py ./
COPY embedder embedder
COPY index index
COPY evaluate evaluate
COPY service service
RUN pip install --no-cache-dir --constraint constraints.txt ".[$EXTRA]"

USER casebook
WORKDIR /home/casebook
ENV CASEBOOK_STORE=/store CASEBOOK_DATA=/data
VOLUME ["/store", "/data"]
ENTRYPOINT ["casebook"]
CMD ["info"]
