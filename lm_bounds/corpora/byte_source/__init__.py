"""Any bytes of files of any size: local ones, those behind URLs, and those of data sets on the Hub."""

from lm_bounds.corpora.byte_source.files import (
    ByteRange,
    ByteSource,
    FileFacts,
    LocalBytes,
    refuse_pointer,
    refuse_pointers,
    unreadable,
)
from lm_bounds.corpora.byte_source.hub_files import HubPlace, parse_place
from lm_bounds.corpora.byte_source.places import is_remote, open_bytes

__all__ = [
    "ByteRange",
    "ByteSource",
    "FileFacts",
    "HubPlace",
    "LocalBytes",
    "is_remote",
    "open_bytes",
    "parse_place",
    "refuse_pointer",
    "refuse_pointers",
    "unreadable",
]
