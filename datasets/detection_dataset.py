"""The data set that the readers fill: pictures and targets, sizes, and ground truth for evaluation."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.annotations import DROP_IMAGE, WARN, AnnotationTable, Fault, clip_to_images, stop_on_faults
from datasets.errors import InputError
from datasets.image_io import UnreadableImage, read_with_size


class DetectionDataset(Dataset):
    """Images and annotations of one split.

    `dataset[i]` is `(image, target)`: image uint8 [3, H, W] RGB; target: `boxes` float32 [M, 4] xyxy pixels inside the
    image, `labels` int64 [M] in 1..C, `image_id` int (= i), `area` float32 [M], `iscrowd` int64 [M] (always 0: crowd
    regions are left out), and for VOC `difficult` int64 [M]. M may be 0.

    Args:
        table: the cleaned annotations.
        faults: what reading and cleaning found; kept as `faults` for the caller to report.
        transforms: optional `(image, target) -> (image, target)`, applied to every sample.
        skip_difficult: leave objects marked difficult out of the targets (evaluation ignores them either way).
        drop_empty: leave out images without any object to train on.
        strict: raise on a fault that stops; else it is one of `faults` like the others, for an inspection.

    Raises:
        InputError: a fault that stops, in one sentence; or no image left.
    """

    has_difficult = False  # whether targets carry the field
    clip_ground_truth = True  # whether evaluation sees boxes clipped to the image
    # Pixels. Set for training, it lets large JPEGs be decoded at 1/2, 1/4 or 1/8 while their short side keeps as many; boxes and
    # areas of the target are then those of the smaller picture.
    decode_side: int | None = None

    def __init__(self, table: AnnotationTable, faults: list[Fault], transforms: Callable | None = None,
                 skip_difficult: bool = False, drop_empty: bool = False, strict: bool = True):
        if strict:
            stop_on_faults(faults)
        self.faults = faults
        self.transforms = transforms
        trained = ~table.iscrowd & ~(table.difficult & skip_difficult)
        if drop_empty:
            images = np.unique(table.image_index[trained])
            trained = trained[np.isin(table.image_index, images)]
            table = table.select_images(images)
        if len(table) == 0:
            raise InputError("no image is left in this split; check the split file and the annotations"
                             + (", or keep images without objects" if drop_empty else ""), faults)
        self.table = table
        self._trained = trained
        self._warned_of_size = False

    @property
    def class_names(self) -> list[str]:
        """Names without background: name k is label k + 1."""
        return self.table.class_names

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        """One sample.

        Raises:
            UnreadableImage: no such image, broken, too large, or so different in size that boxes lie outside.
        """
        (height, width), target = self.coco_index(index)
        path = self.image_path(index)
        image, whole_size = read_with_size(path, expected_size=(height, width), least_side=self.decode_side)
        if whole_size != (height, width):
            self._check_size(size_fault(path, whole_size, (height, width), target["boxes"]))
        if tuple(image.shape[1:]) != whole_size:
            target = _shrink_boxes(target, round(max(whole_size) / max(image.shape[1:])))
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target

    def coco_index(self, index: int) -> tuple[tuple[int, int], dict]:
        """((height, width), target) without reading the image."""
        height, width = self.get_height_and_width(index)
        index = range(len(self))[index]
        rows = np.arange(self.table.offsets[index], self.table.offsets[index + 1])
        rows = rows[self._trained[rows]]
        boxes = clip_to_images(self.table.boxes[rows], height, width).astype(np.float32)
        target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(self.table.labels[rows]),
            "image_id": index,
            "area": torch.from_numpy(self.table.area[rows].astype(np.float32)),
            "iscrowd": torch.zeros(len(rows), dtype=torch.int64),
        }
        if self.has_difficult:
            target["difficult"] = torch.from_numpy(self.table.difficult[rows].astype(np.int64))
        return (height, width), target

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """(height, width) as annotated, without touching the image."""
        index = range(len(self))[index]  # IndexError beyond the end, so that a plain `for` loop ends
        return int(self.table.heights[index]), int(self.table.widths[index])

    def image_path(self, index: int) -> str:
        """Path of the image, for messages."""
        return self.table.paths[range(len(self))[index]]

    def ground_truth(self) -> dict:
        """Everything evaluation needs, crowd and difficult objects included; no image is read.

        Keys: num_images int; heights, widths int32 [n]; source_image_ids int64 [n]; per object image_index int64 [K],
        boxes float64 [K, 4] xyxy, labels int64 [K] in 1..C, area float64 [K], iscrowd bool [K], difficult bool [K];
        class_names; category_ids int64 [C]. The two id arrays lead back to the numbers of the file.
        """
        table, image_index = self.table, self.table.image_index
        boxes = table.boxes.copy()
        if self.clip_ground_truth:
            boxes = clip_to_images(boxes, table.heights[image_index], table.widths[image_index])
        return {
            "num_images": len(table), "heights": table.heights, "widths": table.widths, "image_index": image_index,
            "boxes": boxes, "labels": table.labels, "area": table.area, "iscrowd": table.iscrowd,
            "difficult": table.difficult, "class_names": list(table.class_names),
            "source_image_ids": table.source_image_ids, "category_ids": table.category_ids,
        }

    def _check_size(self, fault: Fault) -> None:
        if fault.action == DROP_IMAGE:
            raise UnreadableImage(str(fault))
        if not self._warned_of_size:
            self._warned_of_size = True
            warnings.warn(f"{fault} (further cases are not reported)", stacklevel=3)


def _shrink_boxes(target: dict, divisor: int) -> dict:
    """The target of a picture decoded at 1 / divisor: exactly that, though sides that do not divide are rounded up."""
    return {**target, "boxes": target["boxes"] / divisor, "area": target["area"] / divisor**2}


def size_fault(path: str, found: tuple[int, int], annotated: tuple[int, int], boxes: Tensor) -> Fault:
    """What training does with an image of another size, (height, width), than its annotation says; boxes [M, 4] to train on.

    A scale is never guessed: boxes that fit are used as they stand, others make the image unusable.
    """
    detail = f"the image has {found[1]}x{found[0]} pixels, its annotation says {annotated[1]}x{annotated[0]}"
    if found == annotated[::-1]:
        detail += ": the sides are swapped, as by an EXIF orientation that was applied to one of them only"
    right, bottom = boxes[:, 2:].amax(dim=0).tolist() if len(boxes) else (0, 0)
    if right > found[1] or bottom > found[0]:
        return Fault(path, "", "boxes outside an image of another size than annotated",
                     f"{detail}, and boxes lie outside the image; correct the annotation", DROP_IMAGE)
    return Fault(path, "", "image of another size than annotated", f"{detail}; its boxes are used as they stand", WARN)
