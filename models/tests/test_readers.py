"""The studies' own files: small ones made in their formats, and what is said about wrong ones."""
from __future__ import annotations

import json
import re
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch

import models
from models import quality
from models.data import docstrings, electricity, flowers, news
from models.data.digits import photographs

ARTICLES = [{"article": f"Text {i} of the news, long enough.", "highlights": f"News {i} .", "id": str(i)}
            for i in range(3)]


def lines_of_electricity(hours=3, clients=2):
    """Writes kilowatts by the quarter hour with decimal commas: client c uses (hour + c) + quarter / 8."""
    rows = [";".join(['""', *(f'"MT_{c + 1:03d}"' for c in range(clients))])]
    for quarter in range(4 * hours):
        time = datetime(2014, 1, 1) + timedelta(minutes=15 * (quarter + 1))
        values = (str(quarter // 4 + c + quarter % 4 / 8).replace(".", ",") for c in range(clients))
        rows.append(";".join([f'"{time}"', *values]))
    return rows


def write(tmp_path, lines):
    path = tmp_path / "LD2011_2014.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_electricity_is_hourly_means_from_the_first_use(tmp_path):
    first, second = electricity.read(write(tmp_path, lines_of_electricity()))
    hour = np.array([0, 1, 2]) + (0 + 1 + 2 + 3) / 4 / 8
    assert (first.name, second.name) == ("MT_001", "MT_002")
    assert first.values == pytest.approx(hour)
    assert second.values == pytest.approx(hour + 1)
    one, wednesday = 2 * np.pi / 24, 2 * np.pi * 2 / 7
    assert first.known[1] == pytest.approx([np.sin(one), np.cos(one), np.sin(wednesday), np.cos(wednesday)])

    lines = [re.sub(r";[\d,]+;", ";0;", line) if 0 < i <= 4 else line for i, line in enumerate(lines_of_electricity())]
    assert electricity.read(write(tmp_path, lines))[0].values == pytest.approx(hour[1:])
    assert len(electricity.read(write(tmp_path, lines), clients=1)) == 1


def test_electricity_makes_windows_that_the_studys_tft_reads(tmp_path):
    train, held_out = electricity.split(write(tmp_path, lines_of_electricity(hours=400)), context=48)
    preset = models.get("tft-160").resized(context=48)
    model = models.create(preset)
    with torch.no_grad():
        assert model(**train.batch(torch.tensor([0, 1]))[0]).shape == (2, 24, 3)
    assert len(quality.evaluate(model, preset, held_out, limit=2)["mase"].items) == 2


@pytest.mark.parametrize(("row", "column", "text", "line"), [
    (0, 0, '"time"', r':1: expected a first row "";"MT_001";... of client names'),
    (5, 1, "x", ":6: expected a number with a decimal comma, like 3,17, found x"),
    (5, 1, "", ":6: expected a number with a decimal comma, like 3,17, found nothing"),
    (5, 1, "nan", ":6: expected a number with a decimal comma, like 3,17, found nan"),
    (5, 0, '"01.02.2014"', ':6: expected a time like "2011-01-01 00:15:00", found "01.02.2014"'),
    (5, 1, "1;2", ":6: expected a time and 2 numbers between semicolons, found 3 numbers"),
    (1, 1, "1;2", ":2: expected a time and 2 numbers between semicolons, found 3 numbers"),
    (12, 2, "1;2", ":13: expected a time and 2 numbers between semicolons, found 3 numbers"),
    (5, 0, '"2014-01-01 01:20:00"', ":6: expected rows of equal steps in time, found steps of "),
])
def test_a_wrong_row_of_electricity_is_named(tmp_path, row, column, text, line):
    lines = [each.split(";") for each in lines_of_electricity()]
    lines[row][column] = text
    path = write(tmp_path, [";".join(each) for each in lines])
    with pytest.raises(ValueError, match="^" + re.escape(str(path) + line)) as error:
        electricity.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("rows", "message"), [
    ([], ": expected rows of a time and numbers, found none"),
    (['"2262-04-11 23:45:00";1'], ": expected times from 1678 to 2261, found 2262-04-11 23:45:00 to ")])
def test_electricity_that_has_no_hours_is_refused(tmp_path, rows, message):
    path = write(tmp_path, ['"";"MT_001"', *rows])
    with pytest.raises(ValueError, match="^" + re.escape(str(path) + message)):
        electricity.read(path)


def test_news_as_json_lines_and_parquet_are_the_same(tmp_path):
    (tmp_path / "news.jsonl").write_text("\n".join(map(json.dumps, ARTICLES)) + "\n\n")
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ARTICLES), tmp_path / "news.parquet")
    expected = [(each["article"], each["highlights"]) for each in ARTICLES]
    assert news.read(tmp_path / "news.jsonl") == news.read(tmp_path / "news.parquet") == expected
    assert news.read(tmp_path / "news.jsonl", limit=2) == expected[:2]
    texts = docstrings.texts(expected, docstrings.tokenizer(1024), positions=160)
    assert texts.references(torch.tensor([1])) == ["News 1 ."]


@pytest.mark.parametrize(("name", "content", "line"), [
    ("n.jsonl", '{"article": "a", "highlights": "b"}\n{"article": \n', ":2: expected one JSON object, found b'{"),
    ("n.jsonl", "[1]\n", ":1: expected one JSON object, found [1]"),
    ("n.jsonl", '\n{"article": "a"}\n', ":2: expected a text 'highlights', found only article"),
    ("n.json", '{"article": "a", "highlights": 3}', ":1: expected a text 'highlights', found 3"),
    ("n.jsonl", "", ": expected rows with 'article' and 'highlights', found none"),
    ("n.csv", "", ": expected a file that ends in .jsonl, .json, .parquet, found .csv"),
    ("n.parquet", "text", ": expected a parquet file, found "),
])
def test_wrong_news_are_named(tmp_path, name, content, line):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (path := tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="^" + re.escape(str(path) + line)) as error:
        news.read(path)
    assert "\n" not in str(error.value)


def test_a_parquet_file_without_a_column_or_a_text_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path = tmp_path / "news.parquet"
    parquet.write_table(pyarrow.table({"article": ["a"], "id": ["1"]}), path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected a column 'highlights', found only article, id")):
        news.read(path)
    parquet.write_table(pyarrow.table({"article": ["a", None], "highlights": ["b", "c"]}), path)
    with pytest.raises(ValueError, match=re.escape(f"{path}:2: expected a text 'article', found None")):
        news.read(path)


@pytest.fixture
def folder(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    photograph = photographs()["flower"]
    for number in ("1", "2", "10"):
        (tmp_path / "flowers" / "train" / number).mkdir(parents=True)
        image.fromarray(photograph).save(tmp_path / "flowers" / "train" / number / "image_1.jpg", quality=95)
    (tmp_path / "cat_to_name.json").write_text('{"1": "pink primrose",\n "10": "globe thistle", "2": "orchid"}')
    return tmp_path / "flowers"


def test_flowers_are_read_with_their_classes_and_names(folder):
    photos = flowers.read(folder, "train", side=224)
    assert sorted(photos.labels_N.tolist()) == [0, 1, 9]
    assert (photos.names[1], photos.names[2], photos.names[9]) == ("orchid", "", "globe thistle")
    inputs, labels = photos.batch(torch.tensor([2, 0]))
    assert inputs["pixel_values"].shape == (2, 3, 224, 224)
    assert labels.tolist() == photos.labels_N[[2, 0]].tolist()
    expected = flowers.pixels(photographs()["flower"], 224)
    assert (inputs["pixel_values"][0] - expected).abs().mean() < 0.02  # JPEG
    mirrored, _ = photos.batch(torch.zeros(32, dtype=torch.long), torch.Generator().manual_seed(0))
    assert {torch.equal(image, inputs["pixel_values"][1]) for image in mirrored["pixel_values"]} == {True, False}
    model = models.create("vit-tiny", image=224, patch=56, classes=102)
    assert len(quality.evaluate(model, "vit-tiny", photos)["top1"].items) == 3


def test_photographs_are_resized_and_cut_in_the_middle():
    image = np.zeros((60, 120, 3), dtype=np.uint8)
    image[:, 30:90] = 255  # the middle half, which a square cut keeps
    actual = flowers.pixels(image, 28)
    assert actual.shape == (3, 28, 28)
    assert actual.min() == actual.max() == 1
    assert flowers.pixels(np.full((50, 40, 3), 127, np.uint8), 28).abs().max() < 0.01


def test_a_wrong_folder_of_flowers_is_named(folder):
    names = folder.parent / "cat_to_name.json"

    def every_image(part):
        photos = flowers.read(folder, part)
        return photos.batch(torch.arange(len(photos)))

    def refused(line, part="train", read=flowers.read):
        with pytest.raises(ValueError, match="^" + re.escape(line)) as error:
            read(folder, part)
        assert "\n" not in str(error.value)

    refused(f"{folder / 'valid'}: expected a folder of class folders, found only train in ", "valid")
    bad = folder / "train" / "1" / "image_1.jpg"
    whole = bad.read_bytes()
    for content in (b"text", whole[:len(whole) // 2]):
        bad.write_bytes(content)
        refused(f"{bad}: expected an image, found ", read=lambda _, part: every_image(part))
    bad.unlink()
    refused(f"{bad.parent}: expected images (.jpeg, .jpg, .png), found none")
    bad.parent.rename(folder / "train" / "rose")
    refused(f"{folder / 'train' / 'rose'}: expected a class folder that cat_to_name.json names, found rose")
    for content, line in (('{"1": "a",\n "2": }', ':2: expected JSON like {"21": "fire lily"}, found Expecting value'),
                          ("[]", ': expected JSON like {"21": "fire lily"}, found []'),
                          ('{"rose": "1"}', ": expected class numbers from 1 with names, like ")):
        names.write_text(content)
        refused(f"{names}{line}")
    names.unlink()
    refused(f"{folder / 'cat_to_name.json'}: expected the names of the classes, found no such file")
