# Needs python3 (3.11 or newer), make and the package registry; everything else is installed into .venv.
PYTHON ?= python3
DATASET ?= fashion_mnist_12k
ARGS ?=
BIN := .venv/bin
DEMO := runs/demo$(if $(filter-out fashion_mnist_12k,$(DATASET)),-$(notdir $(patsubst %/,%,$(DATASET))))

# The lowest versions that pyproject.toml allows; what these bring is of this day. Every command runs there (test_offline.py).
FLOORS := .venv-floors
FLOORS_DAY := 2026-11-26
FLOORS_TESTS := tests/test_offline.py \
	"tests/training/test_train_script.py::test_an_interrupted_run_ends_as_an_uninterrupted_one[24]" \
	tests/pipelines/test_pipeline.py::test_a_pipeline_carries_its_clip \
	tests/evaluation/test_evaluation.py::test_shuffled_labels_move_accuracy_alone \
	tests/publish/test_hub.py::test_a_model_is_pushed_and_loaded_back_by_its_id

# Others at the same time, and strangers: docs/reliability.md.
GATES_TESTS := tests/core/test_locks.py tests/commands/test_locked.py \
	tests/pipelines/test_doors.py::test_eight_threads_draw_what_single_calls_draw \
	tests/data/test_hostile.py tests/models/test_declared.py tests/publish/test_page_routes.py tests/publish/test_hub.py \
	tests/publish/test_card.py tests/test_offline.py tests/test_public.py tests/data/test_data.py

.PHONY: install demo test test-fast test-faults test-full test-cases test-gates test-floors check bundles clean

demo: .venv/installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		train_scripts/train.py --config train_scripts/configs/demo.yaml --dataset $(DATASET) --output_dir $(DEMO) $(ARGS)
	$(BIN)/hfdiff sample $(DEMO) --num_images 2 --output_dir $(DEMO)/pictures
	$(BIN)/hfdiff evaluate $(DEMO) --num_images 260 --num_styled 100 --minutes 0.7
	if [ -d $(DEMO)/pipeline/clip_model ]; then $(BIN)/hfdiff select $(DEMO) --output_dir $(DEMO)/best; \
		else echo "to choose the best by CLIP, train one of these images: hfdiff train-clip"; fi

install: .venv/installed

test: .venv/installed
	$(BIN)/pytest

test-fast: .venv/installed
	$(BIN)/pytest -m "not long and not full and not slow"

test-faults: .venv/installed
	$(BIN)/pytest -m long -s --numprocesses 0 tests/training

test-full: .venv/installed
	$(BIN)/pytest -m full

test-cases: .venv/installed
	$(BIN)/pytest -m long tests/cases --dist load

test-gates: .venv/installed
	$(BIN)/pytest -m "" --counts $(GATES_TESTS)

test-floors: $(FLOORS)/installed
	$(FLOORS)/bin/pytest $(FLOORS_TESTS)

check: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bundles: .venv/installed
	$(BIN)/python -c "import sys; from pathlib import Path; from hfdiff.pipelines import bundle; \
		[Path(file).write_text(bundle(Path('pipelines/pipeline.py'))) for file in sys.argv[1:]]" model_cards/*/class_style.py
	for folder in model_cards/*/unet; do cp hfdiff/models/unet.py $$folder/; done

clean:
	rm -rf .venv $(FLOORS) build *.egg-info

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(FLOORS)/installed: pyproject.toml constraints.txt .venv/installed
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FLOORS)
	$(BIN)/python -c "import tomllib; file = tomllib.load(open('pyproject.toml', 'rb')); project = file['project']; \
		needs = file['build-system']['requires'] + project['dependencies'] + project['optional-dependencies']['demo']; \
		print(*(need.replace('>=', '==') for need in needs), sep='\n')" > $(FLOORS)/floors.txt
	$(BIN)/uv pip install --quiet --python $(FLOORS) --exclude-newer $(FLOORS_DAY) --constraint $(FLOORS)/floors.txt \
		--build-constraint $(FLOORS)/floors.txt --editable ".[demo]"
	$(BIN)/uv pip install --quiet --python $(FLOORS) --constraint constraints.txt pytest pytest-xdist
	touch $@
