"""Who regulates whom in E. coli (RegulonDB 6.7) and yeast (Balaji et al. 2006): real graphs, on which mechanisms can be drawn (`scms.draw`)."""

import pandas as pd

from gencausal import checks
from gencausal.data import registry

FILES = {"ecoli": "ecoli_transcriptional_network_regulonDB_6_7.tsv", "yeast": "yeast_transcriptional_network_Balaji2006.tsv"}


def edges(name: str = "ecoli") -> pd.DataFrame:
    """Edges, columns regulator and target, loops and cycles included. Raises `registry.DataError` where the file is absent."""
    file = registry.fetch("regulatory_graphs", FILES[checks.choice(name, "name", tuple(FILES))])
    return pd.read_csv(file, sep="\t", header=None, usecols=[0, 1], names=["regulator", "target"], dtype=str)
