"""Checkpoints of the Hub: exactly the files that are measured, at one commit.

Everything goes through huggingface_hub, so its settings hold: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and the
others. Files are taken from its cache where they are there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from lm_bounds.errors import WeightsError
from lm_bounds.weights.checkpoint import CONFIG, INDEX, SINGLE, shard_names

_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_DEFAULT_REVISION = "main"
_DOWNLOADS = 4  # shards at a time

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Snapshot:
    """The files of a repository at one commit, as far as they were asked for.

    Args:
        name: ``ORG/NAME@COMMIT``.
        folder: that holds them.
    """

    name: str
    folder: Path


def split_revision(text: str) -> tuple[str, str | None]:
    """``PLACE@REVISION`` as its two parts; None where there is no revision.

    >>> split_revision("org/name@refs/pr/1"), split_revision("gpt2")
    (('org/name', 'refs/pr/1'), ('gpt2', None))
    """
    place, _, revision = text.partition("@")
    return place, revision or None


@contextmanager
def _only_errors_of_ours() -> Iterator[None]:
    """The library warns on standard error of each of its attempts, before the error that says what they came to."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(before)


@_only_errors_of_ours()
def fetch_checkpoint(repository: str, revision: str | None) -> Snapshot:
    """``config.json``, and ``model.safetensors`` or the index and the shards that it names; nothing else.

    Args:
        repository: ``ORG/NAME``, or a name alone.
        revision: branch, tag or commit; ``main`` where none is given.

    Raises:
        WeightsError: the Hub has no such model or revision, does not let this user have it, has no safetensors
            weights there, or cannot be reached while the cache lacks a file.
    """
    files = _Files(repository, revision)
    files.get(CONFIG)
    if files.get(SINGLE) is None:
        index = files.get(INDEX)
        if index is None:
            raise files.without_weights()
        shards = shard_names(index)
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            found = list(pool.map(files.get, shards))
        missing = [shard for shard, path in zip(shards, found, strict=True) if path is None]
        if missing:
            raise WeightsError(f"{files.name} has no {missing[0]}, which its index names: tell its authors")
    return files.snapshot


@_only_errors_of_ours()
def fetch_adapter(repository: str, revision: str | None) -> Snapshot:
    """``adapter_config.json`` and ``adapter_model.safetensors``; nothing else.

    Raises:
        WeightsError: as ``fetch_checkpoint``.
    """
    files = _Files(repository, revision)
    for name in (_ADAPTER_CONFIG, _ADAPTER_WEIGHTS):
        if files.get(name) is None:
            raise WeightsError(f"{files.name} has no {name}: it is no adapter in the safetensors format")
    return files.snapshot


def cached_snapshot(folder: Path, revision: str | None) -> Snapshot | None:
    """The snapshot in a folder ``models--ORG--NAME`` of a cache of the Hub; None for a folder that is no such one.

    Args:
        folder: with ``snapshots`` in it.
        revision: branch, tag or commit; where none is given ``main``, or the only snapshot that there is.

    Raises:
        WeightsError: the cache does not hold that revision.
    """
    if not folder.name.startswith("models--") or not (folder / "snapshots").is_dir():
        return None
    name = folder.name.removeprefix("models--").replace("--", "/")
    commits = sorted(entry.name for entry in (folder / "snapshots").iterdir() if entry.is_dir())
    commit = revision if revision in commits else _referenced(folder, revision or _DEFAULT_REVISION)
    if commit is None and revision is None and len(commits) == 1:
        commit = commits[0]
    if commit not in commits:
        held = ", ".join(commits) or "nothing"
        raise WeightsError(f"{folder} does not hold revision {revision or _DEFAULT_REVISION}: it holds {held}")
    return Snapshot(f"{name}@{commit}", folder / "snapshots" / commit)


def _referenced(folder: Path, revision: str) -> str | None:
    """The commit that a branch or tag stood for when it was downloaded."""
    if ".." in Path(revision).parts or Path(revision).is_absolute():
        return None
    reference = folder / "refs" / revision
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None


@dataclass
class _Files:
    """Files of one repository; the first one that is had fixes the commit of the others."""

    repository: str
    revision: str | None
    folder: Path | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        return f"{self.repository}@{self.folder.name if self.folder else self.revision or _DEFAULT_REVISION}"

    @property
    def snapshot(self) -> Snapshot:
        assert self.folder is not None
        return Snapshot(self.name, self.folder)

    def get(self, file: str) -> Path | None:
        """Where the file is on disk; None where the repository has none of that name."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

        commit = self.folder.name if self.folder else self.revision

        def download() -> Path | None:
            try:
                return Path(hf_hub_download(self.repository, file, revision=commit))
            except RemoteEntryNotFoundError:
                return None
            except LocalEntryNotFoundError:
                # Out of reach. With the commit known the other layout may be there; a configuration must be.
                if self._known_absent(file) or (file == SINGLE and self.folder is not None):
                    return None
                raise

        path = self._in_one_line(file, download)
        if path is not None and self.folder is None:
            self.folder = path.parent
        return path

    def without_weights(self) -> WeightsError:
        """Why there is nothing to measure."""
        if self.get(_ADAPTER_CONFIG) is not None:
            return WeightsError(f"{self.name} is an adapter: give its base too, as BASE,peft={self.repository}")
        return WeightsError(
            f"{self.name} holds no safetensors weights: load it with transformers, call save_pretrained and give the"
            " directory"
        )

    def _known_absent(self, file: str) -> bool:
        """Whether the cache has it from the Hub that there is no such file."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        commit = self.folder.name if self.folder else self.revision
        return try_to_load_from_cache(self.repository, file, revision=commit) is _CACHED_NO_EXIST

    def _in_one_line(self, file: str, download: Callable[[], _Value]) -> _Value:
        """What ``download`` returns, its errors in words of ours."""
        from huggingface_hub import errors

        revision = self.revision or _DEFAULT_REVISION
        try:
            return download()
        except errors.GatedRepoError as error:
            why = "it is gated: accept its terms on its page and set HF_TOKEN"
            raise self._error(why) from error
        except errors.RepositoryNotFoundError as error:
            raise self._error("it has no such model, or a private one: set HF_TOKEN for that") from error
        except errors.RevisionNotFoundError as error:
            raise self._error(f"it has no revision {revision!r} of this model") from error
        except errors.LocalEntryNotFoundError as error:
            offline = isinstance(error.__cause__, errors.OfflineModeIsEnabled)
            reach = "HF_HUB_OFFLINE is set" if offline else "it cannot be reached"
            raise self._error(f"{reach}, and the cache has no {file} of revision {revision!r}") from error
        except errors.HFValidationError as error:
            raise self._error("this is no id of a model") from error
        except errors.HfHubHTTPError as error:
            raise self._error(f"it answers with status {error.response.status_code} for {file}; try again") from error
        except OSError as error:
            raise self._error(f"{file} cannot be kept: {error.strerror or error}") from error

    def _error(self, why: str) -> WeightsError:
        wanted = "give a directory or a file that exists, or a Hub id"
        return WeightsError(f"no checkpoint at {self.repository}: {wanted}; of the Hub: {why}")
