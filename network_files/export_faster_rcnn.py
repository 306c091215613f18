"""Faster R-CNN as graphs for export; see export_graphs.py for what a graph is.

The first stage with its NMS stands in both graphs. Proposals are numbered through the batch, so its size stays free.

Shapes: N images, C classes without background, L levels, K boxes of one image before the first NMS, R proposals of the batch
Words:  rois = rows (number of the image, x1, y1, x2, y2) in pixels of the network input, as RoIAlign takes them
"""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from network_files.anchor_generator import grid_anchors
from network_files.boxes import large_enough, upcast
from network_files.errors import InputError
from network_files.export_graphs import ADMIT_ALL, Normalise, Suppress, best_first, clip_to
from network_files.faster_rcnn import DenseOutputs, FasterRCNN
from network_files.roi_align import MultiScaleRoIAlign, fpn_levels
from network_files.roi_heads import MIN_DETECTION_SIDE
from network_files.rpn import MIN_PROPOSAL_SIDE, flatten_level


class RawFasterRCNN(nn.Module):
    """Images [N, 3, H, W] -> boxes [R, C, 4], clipped to the input, scores [R, C], behind softmax, image_index int64 [R].

    A row is a proposal, its boxes are one per class; image_index says which image of the batch it is of. Rows
    stand image after image by falling objectness. H and W are multiples of the resizer's size_divisible.
    """

    def __init__(self, model: FasterRCNN):
        super().__init__()
        if not isinstance(model.roi_heads.box_roi_pool, MultiScaleRoIAlign):
            raise InputError("only a Faster R-CNN that pools with MultiScaleRoIAlign can be exported: give it as box_roi_pool")
        self.model = model
        self.normalise = Normalise(model.transform.image_mean, model.transform.image_std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dense = self.model.forward_heads(self.normalise(images))
        rois = self.proposals(dense, images)
        pooled = self.pool(dense.features, rois, images)
        heads = self.model.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        deltas = upcast(deltas).unflatten(1, (-1, 4))[:, 1:]  # without background
        boxes = clip_to(heads.box_coder.decode(deltas, rois[:, None, 1:]), images)
        return boxes, upcast(logits).softmax(dim=-1)[:, 1:], rois[:, 0].to(torch.int64)

    def proposals(self, dense: DenseOutputs, images: Tensor) -> Tensor:
        """Rois [R, 5] of the first stage: the best of each level, by level through NMS, of each image the best of those."""
        rpn = self.model.rpn
        boxes, logits, levels = self._candidates(dense, images)
        flat, shape = clip_to(boxes, images).flatten(0, 1), logits.shape
        scores = logits.sigmoid()
        valid = large_enough(flat, MIN_PROPOSAL_SIDE).view(shape) & (scores >= rpn.score_thresh)
        own_level = levels == torch.arange(len(dense.objectness))[:, None]  # [L, K]
        grouped = torch.where(valid[:, None] & own_level, scores[:, None], -1.0)  # [N, L, K]
        boxes = flat.view(*shape, 4)
        most = rpn.post_nms_top_n["testing"]
        image, _, box = Suppress.apply(boxes, grouped, rpn.nms_thresh, ADMIT_ALL, most).unbind(1)
        order = scores[image, box].sort(descending=True).indices
        image, box = image[order], box[order]
        of_image = (image[:, None] == torch.arange(shape[0])).to(torch.int64)  # [R, N]
        place = of_image.cumsum(dim=0).gather(1, image[:, None])[:, 0]  # of a row among those of its image, from 1
        first = (place <= most).nonzero().flatten()
        first = first[(image[first] * most + place[first]).argsort()]  # image after image, which scores alone do not give
        image, box = image[first], box[first]
        return torch.cat((image[:, None].to(boxes), boxes[image, box]), dim=1)

    def _candidates(self, dense: DenseOutputs, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [N, K, 4], their logits [N, K] and levels [K]: the anchors with the highest logits of every level, decoded."""
        rpn = self.model.rpn
        boxes, logits, levels = [], [], []
        for level, cell in enumerate(rpn.anchor_generator.cell_anchors):
            objectness, deltas = dense.objectness[level], dense.deltas[level]
            anchors = grid_anchors(cell.to(objectness), objectness.shape[2:], images.shape[2:])
            values = flatten_level(objectness, 1)[:, :, 0]  # [N, H * W * A]
            number = torch.minimum(torch.as_tensor(values.shape[1]), torch.tensor(rpn.pre_nms_top_n["testing"]))
            best, idxs = values.topk(number, dim=1)
            chosen = flatten_level(deltas, 4).gather(1, idxs[:, :, None].expand(-1, -1, 4))
            boxes.append(rpn.box_coder.decode(chosen, anchors[idxs]))
            logits.append(best)
            levels.append(torch.full_like(idxs[0], level))
        return torch.cat(boxes, dim=1), torch.cat(logits, dim=1), torch.cat(levels)

    def pool(self, features: dict[str, Tensor], rois: Tensor, images: Tensor) -> Tensor:
        """Pooled blocks [R, C, S, S] in the order of the rois, as MultiScaleRoIAlign gives them."""
        pool = self.model.roi_heads.box_roi_pool
        names = [name for name in pool.featmap_names if name in features]
        maps = [upcast(features[name]) for name in names]
        strides = pool.level_strides(names, maps, int(images.shape[2]))
        if len(maps) == 1:
            return roi_align(maps[0], rois, pool.output_size, 1 / strides[0], pool.sampling_ratio)
        level_of_roi = fpn_levels(rois[:, 1:], strides, pool.canonical_scale, pool.canonical_level)
        rows = [(level_of_roi == level).nonzero().flatten() for level in range(len(maps))]
        blocks = [roi_align(part, rois[own], pool.output_size, 1 / stride, pool.sampling_ratio)
                  for part, own, stride in zip(maps, rows, strides)]
        back = torch.cat(rows).argsort()
        return torch.cat(blocks)[back]


class FasterRCNNWithNMS(nn.Module):
    """One image [1, 3, H, W] -> boxes [S, 4], clipped to the input, labels int64 [S], scores [S], falling.

    Thresholds and limits are those of the model at the time of export.
    """

    def __init__(self, model: FasterRCNN):
        super().__init__()
        self.raw = RawFasterRCNN(model)
        self.heads = model.roi_heads

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, _ = self.raw(images)
        valid = large_enough(boxes.flatten(0, 1), MIN_DETECTION_SIDE).view(scores.shape)
        scores = torch.where(valid, scores, -1.0).t()  # [C, R]
        boxes = boxes.transpose(0, 1)  # each class has its own, so classes stand where images do elsewhere
        limits = self.heads.nms_thresh, self.heads.score_thresh, self.heads.detections_per_img
        label, _, row = Suppress.apply(boxes, scores[:, None], *limits).unbind(1)
        best = best_first(scores[label, row], self.heads.detections_per_img)
        label, row = label[best], row[best]
        return boxes[label, row], label + 1, scores[label, row]
