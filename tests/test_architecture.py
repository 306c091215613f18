"""The house rules that a glance at one file does not show: import direction, flags, sections, lazy packages."""

import ast
import importlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = ["train_fasterrcnn", "train_ssd", "train_yolov3"]
OURS = {"network_files", "train_utils", "datasets", "plot_curve", "predict", *SCRIPTS}
MAY_IMPORT = {
    "network_files": set(),
    "train_utils": set(),
    "plot_curve.py": set(),
    "datasets": {"network_files.boxes"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def files_of(part):
    return sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / part]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_go_one_way(part):
    bad = [
        f"{file.name} imports {name}"
        for file in files_of(part)
        for name in imports(file)
        if name.split(".")[0] in OURS - {part} and name not in MAY_IMPORT[part]
    ]
    assert files_of(part) and not bad, bad


def test_the_networks_need_torch_only():
    forbidden = {"argparse", "os", "pathlib", "PIL", "pycocotools", "torch.distributed", "json", "io"}
    bad = [f"{f.name}: {name}" for f in files_of("network_files") for name in imports(f) if name in forbidden]
    assert not bad, bad
    opened = [f.name for f in files_of("network_files") if re.search(r"\bopen\(", f.read_text())]
    assert not opened, opened


def test_each_network_module_can_be_imported_alone():
    """Importing `boxes` must not import the detectors."""
    code = "import sys, network_files.boxes; print([m for m in sys.modules if m.startswith('network_files.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['network_files.boxes']"


def flags(script):
    actions = importlib.import_module(script).get_args_parser()._actions
    return {name: action for action in actions for name in action.option_strings if name.startswith("--")}


def test_shared_flags_mean_the_same():
    tables = [flags(script) for script in SCRIPTS]
    for name in set().union(*tables):
        uses = [table[name] for table in tables if name in table]
        assert len({(type(a), a.type, a.nargs, a.dest, a.help) for a in uses}) == 1, name
        assert uses[0].help and uses[0].type is not bool and "_" not in name, name


def test_scripts_have_the_same_sections():
    for script in SCRIPTS:
        found = re.findall(r"^ *# (\d+\. .+)$", (ROOT / f"{script}.py").read_text(), re.M)
        assert found == [
            "1. setup", "2. data", "3. model", "4. optimiser and schedule", "5. resume", "6. test only", "7. train",
            "8. results",
        ]


def test_names_that_users_of_the_origin_import():
    for module, names in {
        "network_files": ["FasterRCNN", "AnchorsGenerator", "FastRCNNPredictor"],
        "train_utils": ["GroupedBatchSampler", "create_aspect_ratio_groups", "init_distributed_mode", "save_on_master"],
        "train_utils.train_eval_utils": ["train_one_epoch", "evaluate"],
        "datasets": ["VOCDataSet", "CocoDetection"],
        "plot_curve": ["plot_loss_and_lr", "plot_map"],
    }.items():
        for name in names:
            assert callable(getattr(importlib.import_module(module), name)), f"{module}.{name}"


def test_no_function_of_the_shared_package_takes_the_namespace():
    allowed = {"init_distributed_mode"}
    bad = [
        f"{file.name}: {node.name}"
        for part in ("train_utils", "network_files", "datasets")
        for file in files_of(part)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name not in allowed
        and "args" in [argument.arg for argument in node.args.args]
        and any("Namespace" in ast.unparse(a.annotation) for a in node.args.args if a.arg == "args" and a.annotation)
    ]
    assert not bad, bad
