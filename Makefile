# make        an environment, then the main job on the embedded model and data
# make test   an environment, then every test that takes seconds; the others have targets of their own
# Needs Python 3.11 or newer and git; everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The tests start Python some hundred times: each would compile all of ftlab where this is set.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-slow test-kill test-matrix test-liger test-fuzz test-fp8 test-slurm test-distributed test-gpu \
	bench bench-gpu lint tiny-base tiny-instruct

run: $(VENV)/.run
	$(BIN)/ftlab

test: $(VENV)/.dev lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not kill and not matrix and not fuzz and not slurm and not distributed and not gpu and not fp8" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow --timeout 3600

test-kill: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m kill

test-matrix: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m matrix -n 2 --dist loadfile

# Liger's layers on a CPU, where Triton interprets its kernels. They have a folder of their own: 290 MB, and TRL and torch
# compute otherwise wherever Triton is installed.
test-liger: $(VENV)/.dev
	$(BIN)/pip install --quiet --no-deps --target $(VENV)/liger -c constraints.txt liger-kernel triton==3.9.0
	PYTHONPATH=$(VENV)/liger TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(BIN)/pytest -m matrix tests/model/test_liger.py tests/engine/test_kernels.py

test-fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m fuzz --timeout 3600 -n 2 --dist loadfile

# torchao is in no extra: transformers imports it, wherever it is installed, at every start.
test-fp8: $(VENV)/.dev
	$(BIN)/pip install -q torchao -c constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/pytest -m fp8

# Debian: apt-get install slurm-wlm munge, and root; anything else skips them, saying why.
test-slurm: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slurm

test-distributed: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m distributed

# CUDA GPUs, two for most of them; anything else skips them, saying why.
test-gpu: $(VENV)/.dev
	$(BIN)/pytest -m gpu -rs --timeout 3600

# Beside TRL, both sides in one run; hours, and a machine that does nothing else. Ends with an error where a ratio is on
# the wrong side of its limit or worse than in benchmarks/baselines; RECORD=--record writes those.
BENCH ?= prepare step_cpu preference rollout startup
bench: $(VENV)/.dev
	status=0; for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py $(RECORD) || status=1; done; exit $$status

# On one CUDA GPU, without a network. DRY=--dry-run: the same code at a small size on a CPU.
bench-gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/step_gpu.py $(DRY) $(RECORD)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The embedded base model, from nothing: corpus, tokenizer, pre-training.
tiny-base: $(VENV)/.run
	$(BIN)/python dataset/generate.py corpus
	$(BIN)/ftlab experiment=tiny_base run.name=tiny_base

# The adapter that preference and reinforcement stages start from.
tiny-instruct: $(VENV)/.run
	$(BIN)/ftlab experiment=tiny_instruct run.name=tiny_instruct

# torch first and alone: its release is pinned in constraints.txt, and whatever asks for torch afterwards is satisfied.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# pip would compile 26,000 modules one after the other, which is half of the time; this takes every core, and leaves out
# large folders of which little is ever imported: Python compiles that when it is. Files that no Python 3 can read are
# among them, in packages that never import them.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile -c constraints.txt
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/(tests?|transformers/models|plotly|sklearn|databricks|nltk|pip)/' $(VENV)/lib || :

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) -e .
	$(COMPILE)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) torch
	$(INSTALL) -e ".[dev]"
	$(COMPILE)
	touch $(VENV)/.run $@
