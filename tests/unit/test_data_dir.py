"""A data directory knows whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from terpd.daemon.data_dir import check_node
from terpd.model.errors import Unavailable


def test_another_node_is_refused(tmp_path: Path) -> None:
    """It would take all that is there for rubbish. The error says what to set."""
    check_node(tmp_path, "one")
    check_node(tmp_path, "one")
    with pytest.raises(Unavailable, match="TERP_NODE_ID"):
        check_node(tmp_path, "two")
    check_node(tmp_path, "one")
