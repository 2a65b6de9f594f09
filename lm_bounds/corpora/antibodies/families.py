"""Clonal families: the sequences of a subject that descend from one rearrangement, as far as genes and junction tell.

The paper (section B.9) keeps the families of at least 25 sequences that fastBCR (Wang, Hu and Zhang, Cell Reports
Methods 3, 2023) finds among human heavy chains. fastBCR works through each sample on its own. It strips alleles, takes
the first of several calls, drops junctions with X, * or _, counts sequences with the same genes and junction once,
seeds clusters of at least 3 with a shared 5-mer inside the junction among those of one V and J gene, joins clusters
whose lengths differ by at most 1 and that overlap by a tenth, and drops those whose junctions agree with their
consensus in less than .8 of the positions on average.

Here a family has one V gene, J gene and length of the junction, and single linkage at an identity of .8: a rule that
depends on no order. So the samples of a subject are taken together, junctions of different lengths are never in one
family, links need no shared 5-mer, a chain of links is not cut by its consensus, sequences with one junction count each
where they differ elsewhere, and junctions below 9 or above 26 residues, which fastBCR drops, are kept.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lm_bounds.corpora.antibodies.linkage import single_linkage
from lm_bounds.corpora.antibodies.parameters import AntibodyParameters
from lm_bounds.corpora.antibodies.units import Row, Unit

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
_OTHER_THAN_RESIDUES = str.maketrans("", "", RESIDUES)
_HEAVY_LOCI = ("H", "IGH")

Group = tuple[str, str, str, int]  # subject of a plain table, V gene, J gene, length of the junction


@dataclass
class FamilyCounts:
    """How many rows were read, and where each of them went.

    ``rows`` is the sum of all others but ``files``, ``subjects`` and ``families``; a row that several filters drop
    counts with the first of them.

    Args:
        files: data units, each content once.
        subjects: of the units.
        rows: of the units.
        not_productive: rows whose rearrangement is not said to be productive.
        not_heavy: rows of another locus than the heavy chain's.
        incomplete: rows without V gene, J gene, junction or sequence.
        other_letters: rows with X, * or anything but the 20 residues in the sequence or the junction.
        copies: rows whose amino acids the family has already, and the rows of a family that another subject has too.
        in_small_families: sequences of families that are too small.
        sequences: of the corpus.
        families: of the corpus.
    """

    files: int = 0
    subjects: int = 0
    rows: int = 0
    not_productive: int = 0
    not_heavy: int = 0
    incomplete: int = 0
    other_letters: int = 0
    copies: int = 0
    in_small_families: int = 0
    sequences: int = 0
    families: int = 0

    def __str__(self) -> str:
        return (
            f"{self.rows} rows of {self.files} data units of {self.subjects} subjects: {self.not_productive} not "
            f"productive, {self.not_heavy} not heavy chains, {self.incomplete} incomplete, {self.other_letters} with "
            f"X, * or another letter, {self.copies} copies, {self.in_small_families} in small families; "
            f"{self.sequences} sequences of {self.families} families are kept"
        )


def clonal_families(units: Iterable[Unit], parameters: AntibodyParameters, counts: FamilyCounts) -> Iterator[list[str]]:
    """The families, each the amino acids of its different sequences.

    A family is a connected component of the sequences of one subject with the same V gene (first call, allele
    stripped), J gene and length of the junction in amino acids, two of them linked where their junctions agree in at
    least ``identity`` of the positions. Families are in the order of subject, V gene, J gene, length, and the
    alphabetically first junction; the sequences of a family are in the order of their SHA-256, which has nothing to do
    with how like each other they are. So neither names nor the order of files or rows play a part. A family whose
    sequences are those of an earlier one is left out. One subject is in memory at a time.

    Args:
        units: of any subjects.
        parameters: which families there are.
        counts: all zeros; complete when the last family was taken.

    Raises:
        CorpusError: a unit is malformed, with file and line.
    """
    subjects: defaultdict[tuple[str, ...], list[Unit]] = defaultdict(list)
    for unit in units:
        counts.files += 1
        subjects[unit.subject].append(unit)
    seen: set[bytes] = set()
    for subject in sorted(subjects):
        groups = _groups(subjects[subject], counts)
        is_table = subject[0] == "table"
        counts.subjects += len({group[0] for group in groups}) if is_table and groups else 1
        for group in sorted(groups):
            for family in _families(groups.pop(group), parameters, counts):
                content = hashlib.sha256(" ".join(family).encode()).digest()
                if content in seen:
                    counts.copies += len(family)
                    continue
                seen.add(content)
                counts.families += 1
                counts.sequences += len(family)
                yield family


def _groups(units: list[Unit], counts: FamilyCounts) -> dict[Group, set[tuple[str, str]]]:
    """Junction and sequence of the rows that pass the filters."""
    groups: defaultdict[Group, set[tuple[str, str]]] = defaultdict(set)
    for unit in units:
        for row in unit.rows():
            counts.rows += 1
            v_gene, j_gene = _gene(row.v_call), _gene(row.j_call)
            if not row.productive:
                counts.not_productive += 1
            elif not _is_heavy(row, v_gene):
                counts.not_heavy += 1
            elif not (v_gene and j_gene and row.junction and row.sequence):
                counts.incomplete += 1
            elif (row.sequence + row.junction).translate(_OTHER_THAN_RESIDUES):
                counts.other_letters += 1
            else:
                subject = row.subject if unit.metadata is None else ""
                group, member = groups[subject, v_gene, j_gene, len(row.junction)], (row.junction, row.sequence)
                counts.copies += member in group
                group.add(member)
    return groups


def _is_heavy(row: Row, v_gene: str) -> bool:
    return row.locus.upper() in _HEAVY_LOCI if row.locus else v_gene.upper().startswith("IGH")


def _gene(calls: str) -> str:
    """The gene of the first of several calls.

    >>> _gene("IGHV1-69*01,IGHV1-69D*01")
    'IGHV1-69'
    """
    return calls.split(",")[0].split("*")[0].strip()


def _families(
    members: set[tuple[str, str]], parameters: AntibodyParameters, counts: FamilyCounts
) -> Iterator[list[str]]:
    if len(members) < parameters.min_family:
        counts.in_small_families += len(members)
        return
    junctions = sorted({junction for junction, _ in members})
    codes = np.frombuffer("".join(junctions).encode(), dtype=np.uint8).reshape(len(junctions), -1)
    label_of = dict(zip(junctions, single_linkage(codes, parameters.identity).tolist(), strict=True))
    families: defaultdict[int, list[str]] = defaultdict(list)
    for junction, sequence in members:
        families[label_of[junction]].append(sequence)
    for label in sorted(families):
        family = set(families[label])
        counts.copies += len(families[label]) - len(family)
        if len(family) < parameters.min_family:
            counts.in_small_families += len(family)
            continue
        yield sorted(family, key=lambda sequence: hashlib.sha256(sequence.encode()).digest())
