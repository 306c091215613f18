"""Seconds and memory of a COCO evaluation, by the fast evaluator and by pycocotools, and that their numbers are the same.

    python benchmarks/bench_eval.py                                  5,000 images x 100 detections, 80 classes, as COCO's val2017
    python benchmarks/bench_eval.py --images 500 --json result.json
    python benchmarks/bench_eval.py --scale                          the first evaluator alone, 500 to 20,000 images

Made-up objects (7.3 per image, some crowd) and detections (a third of them near an object) go through `CocoScorer` as the
training scripts use it, from flat arrays to the result. Each evaluator has a process of its own, one after the other.

Words:  prepare = CocoScorer(ground_truth), once in a training; score = its `score`, in each epoch; peak = most memory of the
        process less what it had when the arrays were read, in MiB (Linux only).
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from train_utils.coco_eval import STAT_NAMES, CocoScorer  # noqa: E402

OBJECTS_PER_IMAGE, CROWD_SHARE, NEAR_SHARE = 7.3, 0.012, 1 / 3
WIDTH, HEIGHT = 640, 480
SCALE = (500, 1000, 2000, 5000, 10_000, 20_000)  # images
KIB_PER_MIB = 1024


def make_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """float64 [count, 4] xyxy inside the image, of all sizes."""
    limits = np.array([WIDTH, HEIGHT])
    extent = np.maximum(limits * rng.beta(1, 4, (count, 2)), 2)
    corner = (limits - extent) * rng.random((count, 2))
    return np.concatenate([corner, corner + extent], axis=1)


def make_arrays(num_images: int, detections_per_image: int, num_classes: int) -> dict[str, np.ndarray]:
    """The arrays of a ground truth ("truth_...") and of detections ("found_...")."""
    rng = np.random.default_rng(0)
    num_objects, num_found = round(OBJECTS_PER_IMAGE * num_images), num_images * detections_per_image
    boxes, images = make_boxes(rng, num_objects), np.sort(rng.integers(num_images, size=num_objects))
    labels = rng.integers(num_classes, size=num_objects) + 1
    found_images = np.repeat(np.arange(num_images), detections_per_image)
    found_boxes, found_labels = make_boxes(rng, num_found), rng.integers(num_classes, size=num_found) + 1
    near = np.flatnonzero((rng.random(num_found) < NEAR_SHARE) & np.isin(found_images, images))
    first, count = np.searchsorted(images, found_images[near]), np.bincount(images, minlength=num_images)[found_images[near]]
    source = first + (rng.random(len(near)) * count).astype(np.int64)  # any object of the image
    sizes = np.tile(boxes[source, 2:] - boxes[source, :2], 2)  # [n, 4]
    found_boxes[near] = boxes[source] + 0.08 * sizes * rng.normal(size=(len(near), 4))
    found_labels[near] = np.where(rng.random(len(near)) < 0.9, labels[source], found_labels[near])
    scores = rng.beta(1, 8, num_found)
    scores[near] = rng.beta(2, 3, len(near))
    ids = np.sort(rng.permutation(9 * num_images)[:num_images])
    return {
        "truth_image_index": images, "truth_boxes": boxes, "truth_labels": labels,
        "truth_area": 0.6 * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), "truth_iscrowd": rng.random(num_objects) < CROWD_SHARE,
        "truth_difficult": np.zeros(num_objects, dtype=bool), "truth_source_image_ids": ids,
        "truth_category_ids": np.arange(1, num_classes + 1), "found_image_index": found_images, "found_labels": found_labels,
        "found_scores": scores.astype(np.float32), "found_boxes": found_boxes.astype(np.float32),
    }  # fmt: skip


def read_arrays(path: Path) -> tuple[dict, dict]:
    """(ground truth, detections) of a file of `make_arrays`."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    truth, found = ({name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
                    for prefix in ("truth_", "found_"))
    names = [f"class {number}" for number in truth["category_ids"]]
    return {**truth, "num_images": len(truth["source_image_ids"]), "class_names": names}, found


def memory(what: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) / KIB_PER_MIB


def measure(engine: str, path: Path, answers: multiprocessing.Queue) -> None:
    """Runs in a process of its own, so that nothing but this evaluator is counted."""
    truth, found = read_arrays(path)
    before = memory("VmRSS")
    start = time.perf_counter()
    scorer = CocoScorer(truth, engine)
    prepared = time.perf_counter()
    result = scorer.score(found)
    answers.put({"evaluator": result.evaluator, "prepare_s": prepared - start, "score_s": time.perf_counter() - prepared,
                 "peak_mib": memory("VmHWM") - before, "stats": result.stats})


def run(engine: str, path: Path) -> dict:
    """What `measure` finds; ends this process too if it failed, which has said why."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=measure, args=(engine, path, answers))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)
    return answers.get()


def seconds(row: dict) -> float:
    return row["prepare_s"] + row["score_s"]


def compare(args: argparse.Namespace, num_images: int, engines: list[str]) -> list[dict]:
    """Measures and prints the evaluators on the same arrays, of which the last one is what the others are compared with."""
    arrays = make_arrays(num_images, args.detections, args.classes)
    print(f"{num_images} images, {len(arrays['truth_labels'])} objects, {len(arrays['found_labels'])} detections, "
          f"{args.classes} classes; {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(path, **arrays)
        del arrays
        rows = []
        for engine in engines:
            rows.append(run(engine, path))
            row = rows[-1]
            print(f"  {row['evaluator']:20s} prepare {row['prepare_s']:6.2f} s, score {row['score_s']:7.2f} s, "
                  f"peak {row['peak_mib']:6.0f} MiB; AP {row['stats'][0]:.6f}", flush=True)
    for row in rows[:-1]:
        same = sum(ours == theirs for ours, theirs in zip(row["stats"], rows[-1]["stats"]))
        row |= {"time_ratio": seconds(rows[-1]) / seconds(row), "memory_ratio": rows[-1]["peak_mib"] / row["peak_mib"],
                "same_numbers": same}
        print(f"  {row['evaluator']}: 1/{row['time_ratio']:.0f} of the time and 1/{row['memory_ratio']:.1f} of the memory of "
              f"{rows[-1]['evaluator']}; {same} of {len(STAT_NAMES)} numbers identical to the last digit")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--engines", nargs="+", choices=("hotcoco", "pycocotools"), default=["hotcoco", "pycocotools"],
                        help="evaluators; the others are compared with the last")
    parser.add_argument("--scale", action="store_true", help=f"the first evaluator alone on {SCALE[0]} to {SCALE[-1]} images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers into this file")
    args = parser.parse_args()
    if args.scale:
        results = {num_images: compare(args, num_images, args.engines[:1]) for num_images in SCALE}
    else:
        results = {args.images: compare(args, args.images, args.engines)}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    if any(row.get("same_numbers", len(STAT_NAMES)) < len(STAT_NAMES) for rows in results.values() for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
