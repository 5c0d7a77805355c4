"""CLINC150 and Banking77 in small: a few intents that single words tell apart."""

import csv
import gzip
import json
from pathlib import Path
from typing import Final

from superserve.training.intents_corpus import VALIDATION

CLINC150: Final = {"alarm": "wake alarm morning", "pay_bill": "pay bill owe", "oos": "moon river song"}
BANKING77: Final = {"card_arrival": "card post arrive", "exchange_rate": "euro rate exchange"}


def write_packed(folder: Path, per_intent: int) -> None:
    """Both data sets, packed: so many texts of each intent in each split, and what validation takes from training."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, intents, splits in (
        ("clinc150", CLINC150, ("train", "dev", "test")),
        ("banking77", BANKING77, ("train", "test")),
    ):
        with gzip.open(folder / f"{task}.csv.gz", "wt", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("split", "label", "text"))
            for split in splits:
                for label, words in enumerate(intents.values()):
                    more = VALIDATION // 2 if (task, split) == ("banking77", "train") else 0
                    rows.writerows((split, label, text) for text in _texts(words, split, per_intent + more))
        (folder / f"{task}.labels.json").write_text(json.dumps(list(intents)))


def _texts(words: str, split: str, count: int) -> list[str]:
    chosen = words.split()
    return [f"{chosen[number % 3]}, please, {split} {number}" for number in range(count)]
