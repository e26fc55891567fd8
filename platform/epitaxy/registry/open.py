"""Opens the registry that a URI names."""

from __future__ import annotations

import os
from pathlib import Path

from epitaxy.registry.contract import Registry

_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql", "http:", "https:", "databricks")


def open_registry(uri: str | None = None, artifacts: str | None = None) -> Registry:
    """Returns the registry at ``uri``.

    Args:
        uri: A database or MLflow server (``sqlite:///…``, ``postgresql://…``, ``http://…``), or a
            folder (``/mnt/models``, ``file:///…``, ``s3://…``). ``None`` means MLflow on
            ``$EPITAXY_HOME/registry/mlflow.db`` (``~/.epitaxy`` without that variable).
        artifacts: Where an MLflow registry keeps the files.

    Raises:
        RegistryError: If it cannot be opened.
    """
    if uri is None:
        home = Path(os.environ.get("EPITAXY_HOME") or Path.home() / ".epitaxy")
        uri = f"sqlite:///{home.expanduser().absolute()}/registry/mlflow.db"
    if uri.startswith(_DATABASES):
        from epitaxy.registry.mlflow_registry import MlflowRegistry

        return MlflowRegistry(uri, artifacts)
    from epitaxy.registry.directory import DirectoryRegistry

    location = uri if "://" in uri else str(Path(uri).expanduser().absolute())
    return DirectoryRegistry(location)
