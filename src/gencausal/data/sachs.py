"""Protein signalling in single cells, Sachs et al. 2005: 853 observational rows of 11 proteins, and two reference graphs that disagree.

`consensus` (17 edges, that of the discrete network in common use) and `dag20` (20 edges, cmu-phil) turn plc - pip3 around and differ on pip3 -> akt, plc -> pkc and pip2 -> pkc. A third list in use, with 18 edges, has the
cycle pip2 -> pip3 -> plc -> pip2 and is no graph for an SCM. Of the 7,466 rows of nine conditions the first 853 (cd3_cd28 alone) are observational; the interventions are soft.
"""

import gzip
import re

import networkx as nx
import numpy as np
import pandas as pd

from gencausal import checks
from gencausal.data import registry

PROTEINS = ("raf", "mek", "plc", "pip2", "pip3", "erk", "akt", "pka", "pkc", "p38", "jnk")
GRAPHS = ("consensus", "dag20")
OBSERVATIONAL = 853
CONDITIONS = (("cd3_cd28", 853), ("icam2", 902), ("aktinhib", 911), ("g0076", 723), ("psitect", 810), ("u0126", 799), ("ly", 848), ("pma", 913), ("b2camp", 707))


def load(log: bool = False) -> pd.DataFrame:
    """The 853 observational rows, columns PROTEINS, raw fluorescence or ln(x + 10). Raises `registry.DataError` where the file is absent."""
    return _rows(log).iloc[:OBSERVATIONAL]


def load_all(log: bool = False) -> pd.DataFrame:
    """All 7,466 rows with a column `condition`."""
    return _rows(log).assign(condition=np.repeat([name for name, _ in CONDITIONS], [rows for _, rows in CONDITIONS]))


def _rows(log: bool) -> pd.DataFrame:
    rows = pd.read_csv(registry.fetch("sachs", "sachs.2005.continuous.txt"), sep="\t")
    rows.columns = PROTEINS
    return np.log(rows + 10) if log else rows.astype(float)


def graph(name: str = "consensus") -> nx.DiGraph:
    """One of GRAPHS over PROTEINS, read from its file."""
    checks.choice(name, "name", GRAPHS)
    made = nx.DiGraph()
    made.add_nodes_from(PROTEINS)
    if name == "dag20":
        text = registry.fetch("sachs", "sachs.2005.ground.truth.graph.txt").read_text()
        made.add_edges_from((a.lower(), b.lower()) for a, b in re.findall(r"(\w+) --> (\w+)", text))
        return made
    with gzip.open(registry.fetch("sachs", "sachs.bif.gz"), "rt") as stream:
        for child, parents in re.findall(r"probability \( (\w+) \| ([^)]+) \)", stream.read()):
            made.add_edges_from((_bif(parent.strip()), _bif(child)) for parent in parents.split(","))
    return made


def _bif(name: str) -> str:
    """Names of the discrete network as the data have them."""
    return {"plcg": "plc", "p44/42": "erk"}.get(name.lower(), name.lower())
