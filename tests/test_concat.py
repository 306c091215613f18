import pickle

import pytest
import torch
from jetson_data import make_jetson_voc, make_open_images
from torch.utils.data import Subset

from datasets import InputError, JoinedDataset, OpenImagesDataset, TrainingSamples, UnreadableImage, VOCDataSet
from datasets.annotations import FIX, Fault

ORDER = ["star", "circle", "triangle", "square"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Three VOC images of classes in one order, two of Open Images in another."""
    folder = tmp_path_factory.mktemp("roots")
    voc = VOCDataSet(make_jetson_voc(folder / "voc", num_train=3, num_test=1), txt_name="trainval", class_names=ORDER)
    open_images = OpenImagesDataset(make_open_images(folder / "fruit", num_train=2, num_test=1))
    assert voc.class_names != open_images.class_names
    return voc, open_images


def _names(labels, class_names):
    return [class_names[label - 1] for label in labels.tolist()]


def test_samples_of_both_in_the_order_of_the_first(parts):
    joined = JoinedDataset(parts)
    assert len(joined) == 5 and joined.class_names == ORDER
    for index, (part, inner) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        image, target = joined[index]
        own_image, own = parts[part][inner]
        assert torch.equal(image, own_image) and torch.equal(target["boxes"], own["boxes"])
        assert target["image_id"] == index and target["labels"].dtype == torch.int64
        assert _names(target["labels"], ORDER) == _names(own["labels"], parts[part].class_names)
        assert target["difficult"].shape == target["labels"].shape
        assert joined.coco_index(index)[0] == joined.get_height_and_width(index) == parts[part].get_height_and_width(inner)
        assert torch.equal(joined.coco_index(index)[1]["labels"], target["labels"])
        assert joined.image_path(index) == parts[part].image_path(inner)
    assert joined[-1][1]["image_id"] == 4 and parts[1][0][1]["image_id"] == 0
    with pytest.raises(IndexError):
        joined[5]
    assert len([sample for sample in joined]) == 5


def test_ground_truth_is_that_of_the_samples(parts):
    truth = JoinedDataset(parts).ground_truth()
    assert truth["num_images"] == 5 and len(truth["heights"]) == len(truth["widths"]) == 5
    for index in range(5):
        target, rows = JoinedDataset(parts)[index][1], truth["image_index"] == index
        assert truth["labels"][rows].tolist() == target["labels"].tolist()
        assert torch.allclose(torch.from_numpy(truth["boxes"][rows]).float(), target["boxes"])
    assert truth["source_image_ids"].tolist() == [1, 2, 3, 4, 5]  # those of the parts repeat
    assert truth["category_ids"].tolist() == [1, 2, 3, 4] and truth["class_names"] == ORDER
    assert {len(truth[key]) for key in ("boxes", "labels", "area", "iscrowd", "difficult")} == {len(truth["image_index"])}
    assert truth.keys() == parts[0].ground_truth().keys()


def test_image_numbers_stay_where_they_are_distinct(parts):
    numbered = OpenImagesDataset(parts[1].image_path(0).rsplit("/", 2)[0])
    numbered.table.source_image_ids = numbered.table.source_image_ids + 70
    numbered.table.category_ids = numbered.table.category_ids + 7
    truth = JoinedDataset([numbered, parts[0]]).ground_truth()
    assert truth["source_image_ids"].tolist() == [71, 72, 1, 2, 3] and truth["category_ids"].tolist() == [8, 9, 10, 11]


def test_classes_that_differ(parts, tmp_path):
    voc = VOCDataSet(parts[0].image_path(0).rsplit("/", 2)[0], txt_name="trainval", class_names=ORDER[:3], skip_unknown=True)
    with pytest.raises(InputError, match="the classes of roots/b and roots/a differ: roots/b lacks square; give one class list"):
        JoinedDataset([parts[1], voc], ["roots/a", "roots/b"])
    with pytest.raises(InputError, match="data set 2 also has square"):
        JoinedDataset([voc, parts[1]])


def test_faults_are_joined(parts):
    voc = VOCDataSet(parts[0].image_path(0).rsplit("/", 2)[0], txt_name="trainval", class_names=ORDER, skip_unknown=True)
    voc.faults.append(Fault("file", "line 1", "kind", "detail", FIX))
    assert JoinedDataset([voc, parts[0]]).faults == voc.faults + parts[0].faults != parts[0].faults


def test_an_image_without_objects(parts, tmp_path):
    voc = VOCDataSet(parts[0].image_path(0).rsplit("/", 2)[0], txt_name="trainval", class_names=["none"], skip_unknown=True)
    joined = JoinedDataset([voc, voc])
    target = joined[4][1]
    assert target["boxes"].shape == (0, 4) and target["labels"].shape == target["difficult"].shape == (0,)
    assert JoinedDataset([voc, voc]).ground_truth()["boxes"].shape == (0, 4)


def test_it_works_below_training_samples(parts):
    joined = JoinedDataset(parts)
    samples = TrainingSamples(Subset(joined, [4, 0]))
    assert samples.class_names == ORDER and samples.image_path(0) == joined.image_path(4)
    assert samples.ground_truth()["num_images"] == 2 and samples[1][1]["image_id"] == 1
    assert torch.equal(pickle.loads(pickle.dumps(joined))[4][0], joined[4][0])


def test_an_unreadable_image_of_any_part(parts, monkeypatch):
    def broken(path, **options):
        raise UnreadableImage(path)

    monkeypatch.setattr("datasets.detection_dataset.read_with_size", broken)
    with pytest.raises(UnreadableImage, match=r"\.jpg"):
        JoinedDataset(parts)[3]
