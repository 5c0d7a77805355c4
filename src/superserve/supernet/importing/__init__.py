"""Importers of public supernet checkpoints; `import_model` is the way in."""

from superserve.supernet.importing.family import Serving
from superserve.supernet.importing.importer import FAMILIES, Source, import_model
from superserve.supernet.importing.report import ImportReport

__all__ = ["FAMILIES", "ImportReport", "Serving", "Source", "import_model"]
