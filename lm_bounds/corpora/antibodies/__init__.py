"""Antibodies: data units of the Observed Antibody Space, read as clonal families of heavy chains."""

from lm_bounds.corpora.antibodies.corpus import AntibodyCorpus, open_antibodies
from lm_bounds.corpora.antibodies.families import FamilyCounts, clonal_families
from lm_bounds.corpora.antibodies.linkage import single_linkage
from lm_bounds.corpora.antibodies.parameters import AntibodyParameters, antibody_parameters
from lm_bounds.corpora.antibodies.tokenizer import (
    antibody_tokenizer,
    check_antibody_tokenizer,
    write_antibody_tokenizer,
)

__all__ = [
    "AntibodyCorpus",
    "AntibodyParameters",
    "FamilyCounts",
    "antibody_parameters",
    "antibody_tokenizer",
    "check_antibody_tokenizer",
    "clonal_families",
    "open_antibodies",
    "single_linkage",
    "write_antibody_tokenizer",
]
