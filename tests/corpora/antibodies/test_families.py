"""Which rows are kept, and which of them are a family."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import pytest

from lm_bounds.corpora.antibodies import AntibodyParameters, FamilyCounts, clonal_families
from lm_bounds.corpora.antibodies.units import find_units
from lm_bounds.errors import CorpusError

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


def families_of(
    place: Path, min_family: int = 1, identity: Fraction = Fraction(4, 5)
) -> tuple[list[list[str]], FamilyCounts]:
    counts = FamilyCounts()
    found = list(clonal_families(find_units(place), AntibodyParameters("-", place, min_family, identity), counts))
    assert counts.families == len(found)
    assert counts.sequences == sum(map(len, found))
    dropped = ("not_productive", "not_heavy", "incomplete", "other_letters", "copies", "in_small_families", "sequences")
    assert counts.rows == sum(asdict(counts)[name] for name in dropped)
    return found, counts


def row(junction: str = "CARDYW", end: str = "A", **changes: str) -> dict[str, str]:
    return {"junction_aa": junction, "sequence_alignment_aa": f"EVQL{junction}G{end}", **changes}


def test_each_filter_counts_the_rows_that_it_drops(written: Callable[..., Path], units_dir: Path) -> None:
    kept = [row(end=end) for end in "ACD"]
    dropped = {
        "not_productive": [row(end="E", productive="F"), row(end="E", productive="", locus="L")],
        "not_heavy": [row(end="F", locus="K"), row(end="F", locus="", v_call="IGKV1-5*01"), row(end="F", locus="IGL")],
        "incomplete": [row(end="G", v_call=""), row(end="G", j_call="", locus="H"), {"junction_aa": ""}],
        "other_letters": [row("CARXYW"), row(end="X"), row(end="*"), row(end="-"), row(end="b"), row("CA*DYW")],
        "copies": [row(end="A"), row(end="A", v_call="IGHV3-23*04", sequence="TTTT")],
    }
    rows = [*kept, *itertools.chain(*dropped.values()), row(end="H", locus="IGH"), row(end="I", locus="")]
    written("a.csv.gz", rows)
    found, counts = families_of(units_dir)
    assert [sorted(family) for family in found] == [["EVQLCARDYWG" + end for end in "ACDHI"]]
    assert {name: getattr(counts, name) for name in dropped} == {name: len(each) for name, each in dropped.items()}
    assert (counts.rows, counts.files, counts.subjects) == (len(rows), 1, 1)
    for number in asdict(counts).values():
        assert str(number) in str(counts)


def test_a_family_has_one_subject_genes_and_length(written: Callable[..., Path], units_dir: Path) -> None:
    written("a.csv.gz", [row(end="A"), row(end="C", v_call="IGHV3-23*04,IGHV3-23D*01"), row(end="D", j_call="IGHJ4")])
    written("b.csv.gz", [row(end="E"), row("CARDYWW")], Run="SRR2")  # the same subject
    written("c.csv.gz", [row(end="F", v_call="IGHV3-30*01"), row(end="G", j_call="IGHJ6*01")], Run="SRR3")
    written("d.csv.gz", [row(end="H")], Subject="Subject-2")
    written("e.csv.gz", [row(end="I")], Author="others")
    found, counts = families_of(units_dir)
    ends = [sorted(sequence[-1] for sequence in family) for family in found]
    assert sorted(ends) == [["A"], ["A", "C", "D", "E"], ["F"], ["G"], ["H"], ["I"]]
    assert counts.subjects == 3
    # subject, V gene, J gene, length of the junction
    assert ends[0] == ["A", "C", "D", "E"]
    assert found[1] == ["EVQLCARDYWWGA"]
    assert ends[2:] == [["G"], ["F"], ["H"], ["I"]]


def test_the_smallest_family_counts_different_sequences(written: Callable[..., Path], units_dir: Path) -> None:
    written("a.csv.gz", [row(end="A"), row(end="C"), row(end="C"), row("CGGGGW"), row("CGGGGW", end="C")])
    assert [len(family) for family in families_of(units_dir, 2)[0]] == [2, 2]
    found, counts = families_of(units_dir, 3)
    assert found == []
    assert (counts.copies, counts.in_small_families) == (1, 4)


def test_a_sequence_with_two_junctions_is_there_once(written: Callable[..., Path], units_dir: Path) -> None:
    one = {"junction_aa": "CARDYW", "sequence_alignment_aa": "EVQL"}
    written("a.csv.gz", [one, {**one, "junction_aa": "CARDFW"}])
    found, counts = families_of(units_dir)
    assert found == [["EVQL"]]
    assert counts.copies == 1
    assert families_of(units_dir, 2)[0] == []


def test_a_family_of_two_subjects_is_there_once(written: Callable[..., Path], units_dir: Path) -> None:
    for subject in "ac":
        written(f"{subject}.csv.gz", [row(), row(end="C"), row("CWWWWW", end=subject.upper())], Subject=subject)
    found, counts = families_of(units_dir)
    assert sorted(map(sorted, found)) == [["EVQLCARDYWGA", "EVQLCARDYWGC"], ["EVQLCWWWWWGA"], ["EVQLCWWWWWGC"]]
    assert counts.copies == 2


def test_a_plain_table_is_a_subject_or_has_a_column_of_them(units_dir: Path, as_table: Callable[..., str]) -> None:
    rows = [{**row(end=end), "subject_id": subject} for end, subject in zip("ACDE", "xxyy", strict=True)]
    columns = ("productive", "v_call", "j_call", "sequence_alignment_aa", "junction_aa")
    (units_dir / "a.tsv").write_text(as_table(rows, "\t", columns))
    found, counts = families_of(units_dir)
    assert ([len(family) for family in found], counts.subjects) == ([4], 1)
    (units_dir / "a.tsv").write_text(as_table(rows, "\t", (*columns, "subject_id")))
    found, counts = families_of(units_dir)
    assert ([len(family) for family in found], counts.subjects) == ([2, 2], 2)


def random_rows(seed: int, n: int) -> list[dict[str, str]]:
    """Rows of a few families, with mutations, of several genes and lengths."""
    choose = random.Random(seed)
    rows = []
    for _ in range(n):
        seed_junction = choose.choice(["CARDYYGMDVW", "CARGGSSWYFDLW", "CAKDLLTGFDYW", "CARDRRGSFDYW"])
        junction = "".join(choose.choice(RESIDUES) if choose.random() < 0.12 else letter for letter in seed_junction)
        genes = {"v_call": choose.choice(["IGHV1-2*02", "IGHV1-2*04", "IGHV4-4*07"]), "j_call": "IGHJ4*02"}
        rows.append({**row(junction, choose.choice(RESIDUES)), **genes})
    return rows


def slow_families(rows: list[dict[str, str]], min_family: int, identity: Fraction) -> set[frozenset[str]]:
    """Every row is put together with all that it is linked to, one by one."""
    groups = defaultdict(list)
    for each in rows:
        key = (each["v_call"].split("*")[0], each["j_call"].split("*")[0], len(each["junction_aa"]))
        groups[key].append((each["junction_aa"], each["sequence_alignment_aa"]))
    found = set()
    for members in groups.values():
        clusters: list[list[tuple[str, str]]] = []
        for member in members:
            near = [
                cluster
                for cluster in clusters
                if any(
                    sum(a == b for a, b in zip(member[0], other[0], strict=True)) >= identity * len(member[0])
                    for other in cluster
                )
            ]
            clusters = [cluster for cluster in clusters if cluster not in near]
            clusters.append([member, *itertools.chain(*near)])
        found |= {frozenset(sequence for _, sequence in cluster) for cluster in clusters}
    return {family for family in found if len(family) >= min_family}


@pytest.mark.parametrize(("min_family", "identity"), [(1, "4/5"), (5, "4/5"), (2, "9/10"), (1, "1"), (3, "1/2")])
def test_families_are_those_of_a_slow_search(
    written: Callable[..., Path], units_dir: Path, min_family: int, identity: str
) -> None:
    rows = random_rows(3, 400)
    written("a.csv.gz", rows[:150])
    written("b.csv.gz", rows[150:], Run="SRR2")
    found, _ = families_of(units_dir, min_family, Fraction(identity))
    assert {frozenset(family) for family in found} == slow_families(rows, min_family, Fraction(identity))
    assert len(found) > 5
    for family in found:
        assert family == sorted(set(family), key=lambda sequence: hashlib.sha256(sequence.encode()).hexdigest())


def test_names_and_the_order_of_files_and_rows_play_no_part(written: Callable[..., Path], units_dir: Path) -> None:
    rows = [random_rows(seed, 120) for seed in range(4)]
    orders = ([0, 1, 2, 3], [3, 1, 0, 2])
    results = []
    for names, order in zip(("abcd", "zyxw"), orders, strict=True):
        for old in units_dir.iterdir():
            old.unlink()
        for name, number in zip(names, order, strict=True):
            of_unit = rows[number] if order == orders[0] else rows[number][::-1]
            written(f"{name}.csv.gz", of_unit, Run=f"SRR{number}", Subject=f"Subject-{number % 2}")
        results.append(families_of(units_dir, 2))
    assert results[0] == results[1]
    assert len(results[0][0]) > 10


def test_a_malformed_unit_stops_the_families(written: Callable[..., Path], units_dir: Path) -> None:
    written("a.csv.gz", [row()])
    broken = written("b.csv.gz", [row()], Subject="Subject-2")
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(CorpusError, match=r"b\.csv\.gz:\d+: the gzip file is cut off"):
        families_of(units_dir)
