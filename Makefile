# Everything runs in .venv; PYTHON names the interpreter that makes it (3.11 or newer).
PYTHON ?= python3
EXTRA ?= cpu
# Files of tests that are run at a time.
JOBS ?= 2
VENV := .venv
STAMP := $(VENV)/.installed-$(EXTRA)
DEMO := demo

.PHONY: help install test lint types check demo report serve bench bench-full bench-check clean

help:
	@echo "make demo    embed a built-in dataset, evaluate it, draw one case's neighbours"
	@echo "make report  embed all built-in datasets, evaluate them, write demo/report/report.html"
	@echo "make serve   embed all built-in datasets and serve them at http://127.0.0.1:8000/"
	@echo "make test    lint, types and all tests"
	@echo "make lint | types | check    one of these alone"
	@echo "make bench        measure every path by its quick rows, write docs/performance.md"
	@echo "make bench-full   measure every row, write docs/performance.md"
	@echo "make bench-check  measure, and fail where a ratio is worse than the committed one"
	@echo "make clean   remove .venv and $(DEMO)/"
	@echo "EXTRA=gpu installs FAISS for NVIDIA GPUs instead of the CPU's"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA),test]'
	touch $@

install: $(STAMP)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

# One thread each: those of several processes wait for each other in turn, for twice the time.
check: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest --numprocesses $(JOBS) --dist loadfile

test: lint types check

demo: $(STAMP)
	$(VENV)/bin/embed --model hog --dataset phantom-cells --res 28 --store $(DEMO)/store
	@echo
	$(VENV)/bin/knn-eval --k 11 --store $(DEMO)/store
	@echo
	$(VENV)/bin/casebook neighbours --dataset phantom-cells --model hog --res 28 --case test/3 \
		--k 11 --store $(DEMO)/store --out $(DEMO)/neighbours.png

report: $(STAMP)
	$(VENV)/bin/embed --model hog --dataset phantom --res 28,64 --store $(DEMO)/store
	@echo
	$(VENV)/bin/knn-eval --k 11 --model hog --dataset phantom --res 28,64 --intervals --store $(DEMO)/store
	@echo
	$(VENV)/bin/probe-eval --model hog --dataset phantom --res 28,64 --store $(DEMO)/store
	@echo
	$(VENV)/bin/casebook report --store $(DEMO)/store --out $(DEMO)/report

serve: $(STAMP)
	$(VENV)/bin/embed --model hog --dataset phantom --res 28 --store $(DEMO)/store
	@echo
	$(VENV)/bin/casebook serve --model hog --dataset phantom --res 28 --store $(DEMO)/store

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks

bench-full: $(STAMP)
	$(VENV)/bin/python -m benchmarks --full

bench-check: $(STAMP)
	$(VENV)/bin/python -m benchmarks --check

clean:
	rm -rf $(VENV) $(DEMO)
